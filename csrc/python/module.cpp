// The module fastoptim._core.  Only this directory includes pybind11.
#include "../cpu/cpu_quota.h"
#include "../cpu/isa.h"
#include "../cpu/openmp.h"
#include "../cpu/parallel.h"
#include "../cpu/pool.h"
#include "../cpu/thread_count.h"
#include "../cuda/cuda.h"
#include "../rule_info.h"
#include "buffer_update.h"
#include "collectable.h"
#include "fast_path.h"
#include "gil.h"
#include "gpu_axes.h"
#include "interrupts.h"
#include "model.h"
#include "model_probe.h"

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
// the sums does with p, g and each state array, what the update does, whether its step does not depend on p, whether
// the last state array has a number for each row)
py::dict rule_table() {
    py::dict table;
    const auto all = rules();
    for (std::size_t i = 0; i < all.size(); ++i) {
        const RuleInfo& rule = all[i];
        if (table.contains(rule.name)) throw std::runtime_error(std::string("two rules are named ") + rule.name);
        table[rule.name] = py::make_tuple(i, names(rule.hyper), names(rule.state), names(rule.scalar_state), rule.sums,
                                          rule.reduces_all, accesses(rule.reduced), accesses(rule.updated),
                                          rule.ignores_p, rule.has_row_state);
    }
    return table;
}

std::shared_ptr<UpdateConfig> make_update_config(
    int rule, std::vector<double> values, int lr_at, std::vector<int> host_constants_at, bool maximize,
    bool skip_nonfinite, double clip_value, double clip_norm, double clip_global_norm, double norm_type,
    double clip_eps, double l1, double weight_decay, bool decoupled, std::optional<double> ema, std::int64_t ema_start,
    bool ema_debias, std::optional<std::int64_t> swa_start, std::int64_t swa_every, int weight_decay_at,
    const std::string& decay_schedule, double lr_max, bool cautious, bool cautious_decay, double low, double high,
    std::optional<std::uint64_t> rounding_seed) {
    const UpdateConfig config{rule,
                              std::move(values),
                              lr_at,
                              std::move(host_constants_at),
                              maximize,
                              skip_nonfinite,
                              clip_value,
                              clip_norm,
                              clip_global_norm,
                              clip_eps,
                              norm_type_of(norm_type),
                              l1,
                              weight_decay,
                              decoupled,
                              weight_decay_at,
                              decay_schedule_of(decay_schedule),
                              lr_max,
                              cautious,
                              cautious_decay,
                              low,
                              high,
                              ema,
                              ema_start,
                              ema_debias,
                              swa_start,
                              swa_every,
                              rounding_seed};
    config.check();
    return std::make_shared<UpdateConfig>(config);
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

PYBIND11_MODULE(_core, m) {
    cpu::guard_openmp_against_forks();
    cpu::Pool::guard_against_forks();
    cpu::read_threading_from_environment();
    cpu::default_isa();  // a FASTOPTIM_ISA that can't be had is an error now, not at the first step

    m.attr("RULES") = rule_table();
    m.def("build_info", &build_info);
    m.def(
        "address_of", [](const py::array& array) { return reinterpret_cast<Address>(raw(array).data); },
        py::arg("array"));
    m.def("register_dtype", &register_dtype, py::arg("name"), py::arg("dtype"));
    m.def("get_num_threads", &get_num_threads);
    m.def("norms", &norms, py::arg("arrays"), py::arg("norm_type") = 2.0, py::arg("where") = "", py::arg("stream") = 0);
    m.def("square_sums", &square_sums, py::arg("matrices"), py::arg("isa") = "");
    m.def("fill_normal", &fill_normal, py::arg("array"), py::arg("seed"), py::arg("step"), py::arg("param"),
          py::arg("where") = "", py::arg("stream") = 0);
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
             py::arg("clip_norm"), py::arg("clip_global_norm"), py::arg("norm_type"), py::arg("clip_eps"),
             py::arg("l1"), py::arg("weight_decay"), py::arg("decoupled"), py::arg("ema"), py::arg("ema_start"),
             py::arg("ema_debias"), py::arg("swa_start"), py::arg("swa_every"), py::arg("weight_decay_at") = -1,
             py::arg("decay_schedule") = "lr", py::arg("lr_max") = 0.0, py::arg("cautious") = false,
             py::arg("cautious_decay") = false, py::arg("low") = -INFINITY, py::arg("high") = INFINITY,
             py::arg("rounding_seed") = py::none());

    py::class_<ArrayReader, std::shared_ptr<ArrayReader>>(m, "ArrayReader")
        .def(py::init<const std::vector<std::string>&, const std::string&>(), py::arg("key"), py::arg("address"));

    py::class_<RowIndex, std::shared_ptr<RowIndex>>(m, "RowIndex")
        .def(py::init<py::handle, std::int64_t>(), py::arg("index"), py::arg("n"))
        .def_static("all", &RowIndex::all, py::arg("n"))
        .def_property_readonly("gradient_rows", &RowIndex::gradient_rows)
        .def("group", &RowIndex::group, py::arg("counts"), py::arg("first"));

    py::class_<Model, std::shared_ptr<Model>>(m, "Model", collectable<Model>())
        .def(py::init<std::vector<py::array>, std::vector<State>, std::vector<int>, const Model::Where&, py::object,
                      std::shared_ptr<const ArrayReader>, std::vector<py::object>,
                      const std::optional<std::vector<int>>&, py::object, const std::vector<std::optional<py::array>>&,
                      const std::vector<std::optional<py::array>>&, const std::vector<std::uint32_t>&,
                      std::vector<CompressedState>>(),
             py::arg("params"), py::arg("states"), py::arg("groups"), py::arg("where"), py::arg("array_type"),
             py::arg("reader") = py::none(), py::arg("owners") = std::vector<py::object>(),
             py::arg("param_of") = py::none(), py::arg("rows_type") = py::none(),
             py::arg("copies") = std::vector<std::optional<py::array>>(),
             py::arg("extras") = std::vector<std::optional<py::array>>(),
             py::arg("indices") = std::vector<std::uint32_t>(), py::arg("compressed") = std::vector<CompressedState>())
        .def(
            "recognize",
            [](const Model& model, const py::list& grads, const std::optional<std::vector<int>>& step_of,
               const std::vector<GroupStep>& group_steps) {
                return as_tuple(model.recognize(grads, step_of, group_steps));
            },
            py::arg("grads"), py::arg("step_of"), py::arg("group_steps"))
        .def("remember", &Model::remember, py::arg("i"), py::arg("grad"), py::arg("metadata"))
        .def(
            "step",
            [](Model& model, const py::list& grads, const std::optional<std::vector<int>>& step_of,
               const std::vector<GroupStep>& group_steps, py::list now, py::tuple after, Address stream,
               std::optional<double> global_norm, std::vector<double> sums) {
                return model.step(grads, step_of, group_steps, stream, global_norm, std::move(sums),
                                  {std::move(now), std::move(after)});
            },
            py::arg("grads"), py::arg("step_of"), py::arg("group_steps"), py::arg("now") = py::list(),
            py::arg("after") = py::tuple(), py::arg("stream") = 0, py::arg("global_norm") = py::none(),
            py::arg("sums") = std::vector<double>())
        .def("clipped_norms", &Model::clipped_norms, py::arg("grads"), py::arg("step_of"), py::arg("group_steps"),
             py::arg("stream") = 0)
        .def("rule_sums", &Model::rule_sums, py::arg("grads"), py::arg("step_of"), py::arg("group_steps"),
             py::arg("stream") = 0, py::arg("global_norm") = py::none())
        .def("advance", &Model::advance, py::arg("step_of"), py::arg("group_steps"), py::arg("stream"));

    py::class_<FastPath>(m, "FastPath", collectable<FastPath>())
        .def(py::init<std::shared_ptr<Model>, const py::object&, std::vector<std::shared_ptr<const UpdateConfig>>,
                      std::optional<std::vector<FastPath::FixedGroup>>, py::object, const py::list&>(),
             py::arg("model"), py::arg("nesting"), py::arg("configs"), py::arg("fixed"), py::arg("stream"),
             py::arg("containers"))
        .def("try_step", &FastPath::try_step, py::arg("groups"), py::arg("grads"), py::arg("counts"),
             py::arg("scheduled") = py::none())
        .def("match_inputs", &FastPath::match_inputs, py::arg("groups"), py::arg("snapshots"), py::arg("grads"))
        .def("step_with", &FastPath::step_with, py::arg("grads"), py::arg("group_steps"), py::arg("counts"));

    m.def("complete", &complete, py::arg("work"));
    py::class_<Temporarily>(m, "Temporarily", collectable<Temporarily>())
        .def(py::init<py::object, py::object>(), py::arg("begin"), py::arg("end"))
        .def("__enter__", &Temporarily::enter)
        .def("__exit__", &Temporarily::exit);

    py::class_<StateArguments, std::shared_ptr<StateArguments>>(m, "StateArguments")
        .def(py::init<int, const std::vector<std::vector<StateArguments::Names>>&>(), py::arg("rule"),
             py::arg("alternatives"));
    py::class_<OptionSet>(m, "OptionSet")
        .def_readonly_static("WEIGHT_DECAY", &OptionSet::kWeightDecay)
        .def(py::init<std::shared_ptr<const UpdateConfig>, const py::dict&,
                      const std::map<std::string, std::tuple<std::vector<int>, double, double>>&, double, double,
                      std::string, py::object, std::shared_ptr<const StateArguments>>(),
             py::arg("config"), py::arg("given"), py::arg("readable"), py::arg("lr"), py::arg("grad_scale"),
             py::arg("when_nonfinite"), py::arg("host_constants"), py::arg("states"));
    m.def("try_update", &try_update, py::arg("option_sets"), py::arg("p"), py::arg("g"), py::arg("state"),
          py::arg("step"), py::arg("options"));

    export_bandwidth_probe(m);
    export_gpu_axes(m);

    m.def("cuda_status", &cuda::status);
    m.def(
        "cuda_device_of", [](Address address) { return cuda::device_of(reinterpret_cast<void*>(address)); },
        py::arg("address"));
    m.def(
        "cuda_wait",
        [](int device, Address stream, Address other) {
            cuda::wait(device, reinterpret_cast<void*>(stream), reinterpret_cast<void*>(other));
        },
        py::arg("device"), py::arg("stream"), py::arg("other"));
}

}  // namespace
}  // namespace fo
