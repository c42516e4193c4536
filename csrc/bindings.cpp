// The module fastoptim._core.  With buffer.cpp, cuda_plan.cpp, bandwidth_probe.cpp, gil.cpp, plan.cpp and repeat.cpp
// the only files that see pybind11.
#include "bandwidth_probe.h"
#include "cpu/cpu_quota.h"
#include "cpu/isa.h"
#include "cpu/openmp.h"
#include "cpu/parallel.h"
#include "cpu/pool.h"
#include "cpu/thread_count.h"
#include "cuda/cuda.h"
#include "cuda_plan.h"
#include "gil.h"
#include "plan.h"
#include "repeat.h"
#include "rule_info.h"

namespace fo {
namespace {

py::tuple names(std::span<const char* const> all) { return py::cast(std::vector<std::string>(all.begin(), all.end())); }

// What a pass does with p, g and each state array, as Python reads it: "", "r" or "rw".
py::tuple accesses(std::span<const Access> all) {
    std::vector<std::string> shown;
    for (const Access access : all)
        shown.emplace_back(access == Access::kWrite ? "rw" : access == Access::kRead ? "r" : "");
    return py::cast(shown);
}

// name -> (index, hyper-parameters, state arrays, state numbers, sums, whether those are a group's, what the pass for
// the sums does with p, g and each state array, what the update does)
py::dict rule_table() {
    py::dict table;
    const auto all = rules();
    for (std::size_t i = 0; i < all.size(); ++i) {
        const RuleInfo& rule = all[i];
        if (table.contains(rule.name)) throw std::runtime_error(std::string("two rules are named ") + rule.name);
        table[rule.name] = py::make_tuple(i, names(rule.hyper), names(rule.state), names(rule.scalar_state), rule.sums,
                                          rule.reduces_group, accesses(rule.reduced), accesses(rule.updated));
    }
    return table;
}

UpdateConfig make_update_config(int rule, std::vector<double> values, int lr_at, std::vector<int> host_constants_at,
                                bool maximize, bool skip_nonfinite, double clip_value, double clip_norm,
                                double clip_global_norm, double l1, double weight_decay, bool decoupled,
                                std::optional<double> ema, std::optional<std::int64_t> swa_start,
                                std::int64_t swa_every) {
    if (rule < 0 || static_cast<std::size_t>(rule) >= rules().size()) throw std::invalid_argument("expected a rule");
    const auto count = rules()[static_cast<std::size_t>(rule)].hyper.size();
    const auto is_one = [count](int at) { return at >= 0 && static_cast<std::size_t>(at) < count; };
    if (values.size() != count || (lr_at != -1 && !is_one(lr_at)) ||
        !std::all_of(host_constants_at.begin(), host_constants_at.end(), is_one))
        throw std::invalid_argument("expected the rule's hyper-parameters");
    return {rule,
            std::move(values),
            lr_at,
            std::move(host_constants_at),
            maximize,
            skip_nonfinite,
            clip_value,
            clip_norm,
            clip_global_norm,
            l1,
            weight_decay,
            decoupled,
            ema,
            swa_start,
            swa_every};
}

int get_num_threads() { return cpu::combine(cpu::read_thread_limits()).threads; }

py::dict thread_info() {
    const cpu::NextPass next = cpu::next_large_pass();
    const cpu::ThreadLimits limits = cpu::read_thread_limits();
    const auto or_none = [](int n) { return n ? py::object(py::int_(n)) : py::object(py::none()); };
    py::dict found;
    found["affinity"] = limits.affinity;
    found["quota"] = or_none(limits.quota);
    found["environment"] = or_none(limits.environment);
    found["limit"] = or_none(limits.limit);
    found["call"] = or_none(limits.call);

    py::dict info;
    info["threads"] = next.threads;
    info["layer"] = next.layer;
    info["reason"] = next.reason;
    info["threading"] = cpu::threading();
    info["limits"] = found;
    return info;
}

// The tuner of a thread, for tests that simulate machines.
class LayerTunerForTests {
  public:
    std::string choose(std::int64_t length, bool prefer_openmp, std::int64_t now) {
        return cpu::name_of(tuner_.choose(length, {true, prefer_openmp}, now));
    }
    void record(std::int64_t length, const std::string& layer, double ns, double one_thread_ns) {
        tuner_.record(length, cpu::layer_named(layer).value(), ns, one_thread_ns);
    }

  private:
    cpu::LayerTuner tuner_;
};

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
    info["threads"] = get_num_threads();
    info["cuda"] = cuda.version.empty() ? py::object(py::none()) : py::cast(cuda.version);
    info["cuda_architectures"] = cuda.architectures;
    info["cuda_devices"] = cuda.devices;
    return info;
}

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
    cpu::guard_openmp_against_forks();
    cpu::Pool::guard_against_forks();
    cpu::read_threading_from_environment();
    cpu::default_isa();  // a FASTOPTIM_ISA that can't be had is an error now, not at the first step

    m.attr("RULES") = rule_table();
    m.def("build_info", &build_info);
    m.def("set_bfloat16", &set_bfloat16);
    m.def("get_num_threads", &get_num_threads);
    m.def("squared_norms", &squared_norms);
    m.def("set_num_threads", &cpu::set_num_threads);
    m.def("set_threading", &cpu::set_threading);
    m.def("thread_info", &thread_info);
    m.def("stepping_threads", &stepping_threads);
    m.def("end_threads", &end_threads, py::arg("threads"));
    py::class_<LayerTunerForTests>(m, "LayerTuner")
        .def(py::init())
        .def("choose", &LayerTunerForTests::choose, py::arg("length"), py::arg("prefer_openmp") = false,
             py::arg("now") = 0)
        .def("record", &LayerTunerForTests::record, py::arg("length"), py::arg("layer"), py::arg("ns"),
             py::arg("one_thread_ns"));
    m.def("quota_processors", &cpu::quota_processors, py::arg("root"));

    py::class_<UpdateConfig, std::shared_ptr<UpdateConfig>>(m, "UpdateConfig")
        .def(py::init(&make_update_config), py::kw_only(), py::arg("rule"), py::arg("values"), py::arg("lr_at"),
             py::arg("host_constants_at"), py::arg("maximize"), py::arg("skip_nonfinite"), py::arg("clip_value"),
             py::arg("clip_norm"), py::arg("clip_global_norm"), py::arg("l1"), py::arg("weight_decay"),
             py::arg("decoupled"), py::arg("ema"), py::arg("swa_start"), py::arg("swa_every"));

    py::class_<Plan, std::shared_ptr<Plan>>(m, "Plan")
        .def(py::init<std::vector<py::array>, std::vector<State>, std::vector<int>, const std::string&>(),
             py::arg("params"), py::arg("states"), py::arg("groups"), py::arg("isa") = "")
        .def_readonly_static("CHANGED", &Plan::kChanged)
        .def_readonly_static("SKIPPED", &Plan::kSkipped)
        .def_readonly_static("FIRST_ODD", &Plan::kFirstOdd)
        .def("step",
             py::overload_cast<const py::list&, const std::optional<std::vector<int>>&, const std::vector<GroupStep>&>(
                 &Plan::step, py::const_),
             py::arg("grads"), py::arg("step_of"), py::arg("group_steps"));

    m.def("cuda_status", &cuda::status);
    m.def(
        "cuda_device_of", [](CudaPlan::Address address) { return cuda::device_of(reinterpret_cast<void*>(address)); },
        py::arg("address"));
    m.def("cuda_squared_norms", &cuda_squared_norms, py::arg("arrays"), py::arg("device"), py::arg("stream"));
    py::class_<CudaPlan>(m, "CudaPlan")
        .def(py::init<const std::vector<CudaPlan::Parameter>&, const std::vector<CudaPlan::ItsState>&, std::vector<int>,
                      int>(),
             py::arg("params"), py::arg("states"), py::arg("groups"), py::arg("device"))
        .def_readonly_static("SKIPPED", &CudaPlan::kSkipped)
        .def("step", &CudaPlan::step, py::arg("grads"), py::arg("formats"), py::arg("step_of"), py::arg("group_steps"),
             py::arg("stream"), py::arg("whole_norm") = py::none())
        .def("gradient_norms", &CudaPlan::gradient_norms, py::arg("grads"), py::arg("formats"), py::arg("step_of"),
             py::arg("group_steps"), py::arg("stream"))
        .def("advance", &CudaPlan::advance, py::arg("step_of"), py::arg("group_steps"), py::arg("stream"));

    py::class_<CudaBandwidthProbe>(m, "CudaBandwidthProbe")
        .def(py::init<int, const std::vector<CudaPlan::Parameter>&, const std::vector<CudaPlan::ItsState>&,
                      const CudaPlan::Gradients&, const CudaPlan::Formats&, int>(),
             py::arg("rule"), py::arg("params"), py::arg("states"), py::arg("grads"), py::arg("formats"),
             py::arg("device"))
        .def("__call__", &CudaBandwidthProbe::run, py::arg("mask"), py::arg("stream"))
        .def("answer", &CudaBandwidthProbe::answer, py::arg("stream"));

    py::class_<Repeat, std::shared_ptr<Repeat>>(m, "Repeat")
        .def(py::init<std::shared_ptr<Plan>, const py::object&, std::vector<std::shared_ptr<const UpdateConfig>>>(),
             py::arg("plan"), py::arg("nesting"), py::arg("configs"))
        .def("match", &Repeat::match, py::arg("groups"), py::arg("seen"), py::arg("grads"))
        .def("step", &Repeat::step, py::arg("grads"), py::arg("group_steps"));

    py::class_<Steady>(m, "Steady")
        .def(py::init<std::shared_ptr<Repeat>, std::vector<Steady::Group>>(), py::arg("repeat"), py::arg("groups"))
        .def("__call__", &Steady::step, py::arg("groups"), py::arg("grads"), py::arg("step_count"));

    py::class_<BandwidthProbe>(m, "BandwidthProbe")
        .def(py::init<int, std::vector<py::array>, std::vector<py::array>, std::vector<std::vector<py::array>>,
                      std::vector<std::vector<py::array>>, const std::string&>(),
             py::arg("rule"), py::arg("params"), py::arg("grads"), py::arg("states"), py::arg("averages"),
             py::arg("isa") = "")
        .def("__call__", &BandwidthProbe::run, py::arg("mask"));
}

}  // namespace
}  // namespace fo
