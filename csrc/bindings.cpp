// The module fastoptim._core.  With plan.cpp and buffer.cpp the only files that see pybind11.
#include "cpu/isa.h"
#include "cpu/threads.h"
#include "cuda/cuda.h"
#include "plan.h"
#include "table.h"

namespace fo {
namespace {

// name -> (index, hyper-parameters, state arrays)
py::dict rule_table() {
    py::dict table;
    const auto all = rules();
    for (std::size_t i = 0; i < all.size(); ++i) {
        if (table.contains(all[i].name)) throw std::runtime_error(std::string("two rules are named ") + all[i].name);
        const py::tuple hyper = py::cast(std::vector<std::string>(all[i].hyper.begin(), all[i].hyper.end()));
        const py::tuple state = py::cast(std::vector<std::string>(all[i].state.begin(), all[i].state.end()));
        table[all[i].name] = py::make_tuple(i, hyper, state);
    }
    return table;
}

py::dict build_info() {
    std::vector<std::string> usable;
    for (const auto& isa : cpu::usable_isas()) usable.emplace_back(isa.name);
    const cuda::Info cuda = cuda::info();

    py::dict info;
    info["version"] = FO_VERSION;
    info["compiler"] = FO_COMPILER;
    info["isa_compiled"] = cpu::compiled_isas();
    info["isa_usable"] = usable;
    info["isa"] = cpu::default_isa().name;
    info["openmp"] = cpu::kHasOpenMP;
    info["threads"] = cpu::num_threads();
    info["cuda"] = cuda.version.empty() ? py::object(py::none()) : py::cast(cuda.version);
    info["cuda_architectures"] = cuda.architectures;
    info["cuda_devices"] = cuda.devices;
    return info;
}

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
    cpu::guard_forks();
    cpu::default_isa();  // a FASTOPTIM_ISA that can't be had is an error now, not at the first step

    m.attr("RULES") = rule_table();
    m.def("build_info", &build_info);
    m.def("set_bfloat16", &set_bfloat16);
    m.def("get_num_threads", &cpu::num_threads);
    m.def("set_num_threads", &cpu::set_num_threads);

    py::class_<Hyper>(m, "Hyper")
        .def(py::init([](int rule, std::vector<double> values, int lr_at, bool maximize, double weight_decay,
                         bool decoupled) {
                 if (rule < 0 || static_cast<std::size_t>(rule) >= rules().size())
                     throw std::invalid_argument("expected a rule");
                 const auto& info = rules()[static_cast<std::size_t>(rule)];
                 if (values.size() != info.hyper.size())
                     throw std::invalid_argument("expected the rule's hyper-parameters");
                 return Hyper{rule, std::move(values), lr_at, maximize, weight_decay, decoupled};
             }),
             py::arg("rule"), py::arg("values"), py::arg("lr_at"), py::arg("maximize"), py::arg("weight_decay"),
             py::arg("decoupled"));

    py::class_<Plan>(m, "Plan")
        .def(py::init<std::vector<py::array>, std::vector<std::vector<py::array>>, std::vector<int>,
                      const std::string&>(),
             py::arg("params"), py::arg("states"), py::arg("groups"), py::arg("isa") = "")
        .def_readonly_static("CHANGED", &Plan::kChanged)
        .def_readonly_static("FIRST_ODD", &Plan::kFirstOdd)
        .def("step", &Plan::step, py::arg("grads"), py::arg("update_of"), py::arg("updates"));
}

}  // namespace
}  // namespace fo
