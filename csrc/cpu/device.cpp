// Executes the passes of a step: reductions and updates in parallel shares of all segments, the rest on the calling
// thread.
//
// A pass that is not parallel is a loop over segments or parameters.  Sums over a parameter and over all are added in
// the order of reduce.h.  Everything is allocated before the first write, so that a step is taken or nothing
// happens.
#include "device.h"

#include "../float_environment.h"
#include "../pass.h"
#include "../prepare.h"
#include "../reduce.h"
#include "../rule_info.h"
#include "row_reduction.h"
#include "shares.h"

#include <cmath>
#include <stdexcept>

namespace fo::cpu {
namespace {

using Index = std::int64_t;

template <class Function>
Function choose(Format format, Function f32, Function f64) {
    return format == Format::kFloat64 ? f64 : f32;
}

class Execution {
  public:
    // Allocates what these passes need.
    Execution(const StepArgs& step, const Loops& loops, const std::vector<Pass>& passes,
              const Elsewhere& elsewhere = {})
        : step_(step), loops_(loops), elsewhere_(elsewhere) {
        Index most_segments = 0, most_tiles = 0, params = 0;  // params: 0 where no pass has sums
        for (const Pass& pass : passes) {
            most_segments = std::max(most_segments, pass.end - pass.begin);
            if (pass.kind != PassKind::kUpdate) params = step.params();
            if (pass.kind != PassKind::kReduceGradients && pass.kind != PassKind::kReduceRule &&
                pass.kind != PassKind::kCountAgreeing)
                continue;
            Index tiles = 0;
            for (Index i = pass.begin; i < pass.end; ++i) tiles += tiles_of(step.stepped(i));
            most_tiles = std::max(most_tiles, tiles);
        }
        factors_.resize(static_cast<std::size_t>(most_rows(passes)));
        begins_.reserve(static_cast<std::size_t>(most_segments) + 1);
        tiles_.reserve(static_cast<std::size_t>(most_tiles * kMaxSums));
        sums_.resize(static_cast<std::size_t>(params * kMaxSums));
    }

    // Return false if the step is to be skipped.
    bool run(const Pass& pass) {
        switch (pass.kind) {
            case PassKind::kReduceGradients: reduce_gradients(pass, step_.bounds_norms()); return true;
            case PassKind::kClip: return clip();
            case PassKind::kBeforeReduce: before_reduce(pass); return true;
            case PassKind::kReduceRule: reduce_rule(pass); return true;
            case PassKind::kReduceAll: reduce_all(); return true;
            case PassKind::kReduceRows: reduce_rows(pass); return true;
            case PassKind::kFinalize: finalize(pass); return true;
            case PassKind::kCountAgreeing: count_agreeing(pass); return true;
            case PassKind::kUpdate:
                update_shares(
                    step_, pass, [this](Index i) -> const RuleLoops& { return loops_of(i); }, loops_.gradient,
                    loops_.storage, begins_);
                return true;
        }
        return true;
    }

    // `for_norms`: not only to find numbers that are not finite.
    void reduce_gradients(const Pass& pass, bool for_norms) {
        reduce(pass, [this](Index i) -> Reduce {
            if (!step_.gradients[i].data) return nullptr;
            const auto type = static_cast<std::size_t>(step_.constants_of(i).norm_type);
            return choose(step_.segments[i].p.format, loops_.gradient.f32[type], loops_.gradient.f64[type]);
        });
        if (for_norms) reduce_scaled(pass);
    }

    // Return the factor of clip_norm of each parameter's gradient, and the norm that remains.
    std::vector<FO_TARGET::ClippedNorm> clip_norms() const {
        const DefaultFloatEnvironment environment;
        std::vector<FO_TARGET::ClippedNorm> clipped(static_cast<std::size_t>(step_.params()));
        for_params({PassKind::kClip, 0, step_.count}, [&](Index i) {
            const StepConstants& constants = step_.constants_of(i);
            const double norm =
                FO_TARGET::norm_of_sum(constants.norm_type, sums_of(param_of(i))[0], step_.gradients[i].clip);
            clipped[static_cast<std::size_t>(param_of(i))] =
                FO_TARGET::clip_to_norm(norm, constants.clip_norm, constants.clip_eps);
        });
        return clipped;
    }

    // Return whether a gradient is not finite and the step skips such gradients.
    bool skips() const {
        bool skips = false, finite = true;
        for (Index k = 0; k < step_.constants_count; ++k) skips |= step_.constants[k].skip_nonfinite;
        for_params({PassKind::kClip, 0, step_.count}, [&](Index i) { finite &= sums_of(param_of(i))[1] == 0; });
        return skips && !finite;
    }

    // Return the sums of the rule over each parameter, one after another.
    std::vector<double> rule_sums() const {
        std::vector<double> sums;
        for (Index param = 0; param < step_.params(); ++param)
            sums.insert(sums.end(), sums_of(param), sums_of(param) + rule_of(0).sums);
        return sums;
    }

  private:
    const RuleInfo& rule_of(Index i) const { return rule_info(step_.constants_of(i).rule); }
    const RuleLoops& loops_of(Index i) const { return loops_.rules[step_.constants_of(i).rule]; }
    Index param_of(Index i) const { return step_.segments[i].param; }
    double* sums_of(Index param) { return sums_.data() + param * kMaxSums; }
    const double* sums_of(Index param) const { return sums_.data() + param * kMaxSums; }

    static bool has_gradient(const StepArgs& step, Index i) { return step.gradients[i].data != nullptr; }

    // Call f(i) for the first segment of each parameter of the pass that has a gradient, or for which `is_one` is true.
    template <class F>
    void for_params(const Pass& pass, F f, bool (*is_one)(const StepArgs&, Index) = &has_gradient) const {
        for (Index i = pass.begin; i < pass.end; ++i)
            if ((i == pass.begin || param_of(i) != param_of(i - 1)) && is_one(step_, i)) f(i);
    }

    // Sum over each parameter: `reduce_of(i)` is the function for segment i, or null.
    template <class ReduceOf>
    void reduce(const Pass& pass, ReduceOf reduce_of) {
        const Index first = pass.begin, count = pass.end - pass.begin;
        concatenate(
            count, [&](Index i) { return reduce_of(first + i) ? tiles_of(step_.stepped(first + i)) : 0; }, begins_);
        tiles_.assign(static_cast<std::size_t>(begins_.back() * kMaxSums), 0);
        // Tiles of small arrays are not full, so count elements before using threads.
        Index elements = 0;
        for (Index i = pass.begin; i < pass.end; ++i) elements += reduce_of(i) ? step_.stepped(i) : 0;
        const Index min_share = elements < 2 * kMinShare ? begins_.back() + 1 : kMinShare / kSumTile;
        for_shares(begins_, min_share, 1, [&](Index i, Index begin, Index end) {
            const Index at = first + i;
            double* const sums = tiles_.data() + (begins_[i] + begin) * kMaxSums;
            if (step_.gradients[at].rows)
                return RowBlock(step_, at, loops_.gradient, loops_.storage).reduce(reduce_of(at), begin, end, sums);
            const Segment& segment = step_.segments[at];
            const StepConstants& constants = step_.constants_of(at);
            const bool is_staged = segment.extra.kind != Extra::kNone || segment.compression;
            if (is_staged && pass.kind != PassKind::kReduceGradients) {
                const bool counts = pass.kind == PassKind::kCountAgreeing;
                const std::span<const Access> accesses = counts ? rule_of(at).updated : rule_of(at).reduced;
                return StagedTile(segment, constants, loops_.storage, accesses)
                    .reduce(reduce_of(at), step_.gradients[at], begin, end, sums, !counts);
            }
            reduce_of(at)(segment, step_.gradients[at], constants, begin, end, sums);
        });
        add_tiles(pass, reduce_of);
    }

    template <class ReduceOf>
    void add_tiles(const Pass& pass, ReduceOf reduce_of) {
        const DefaultFloatEnvironment environment;
        const auto on_this_thread = [](auto f) { f(0); };
        for (Index i = pass.begin; i < pass.end; ++i) {
            if (!reduce_of(i)) continue;
            const Index at = i - pass.begin, count = begins_[at + 1] - begins_[at];
            double* const own = tiles_.data() + begins_[at] * kMaxSums;
            const bool largest =
                pass.kind == PassKind::kReduceGradients && step_.constants_of(i).norm_type == NormType::kInfinity;
            FO_TARGET::add_pairwise({own, static_cast<std::uint32_t>(count), kMaxSums, kMaxSums, 1, largest}, 1,
                                    on_this_thread);
            const bool first = i == pass.begin || param_of(i) != param_of(i - 1);
            for (int k = 0; k < kMaxSums; ++k) {
                double& sum = sums_of(param_of(i))[k];
                const double segment = count > 0 ? own[k] : 0;
                sum = first ? segment : FO_TARGET::combine(largest, sum, segment);
            }
        }
    }

    // Sum again, scaled, the squares that overflow or lose digits.
    void reduce_scaled(const Pass& pass) {
        bool scales = false;
        for (Index i = pass.begin; i < pass.end; ++i) {
            if (!step_.gradients[i].data || step_.segments[i].p.format != Format::kFloat64 ||
                step_.constants_of(i).norm_type != NormType::kTwo)
                continue;
            step_.gradients[i].clip = FO_TARGET::square_scale(sums_of(param_of(i))[0]);
            scales |= step_.gradients[i].clip != 1;
        }
        if (scales)
            reduce(pass, [this](Index i) -> Reduce {
                return step_.gradients[i].clip != 1 ? loops_.gradient.scaled_f64 : nullptr;
            });
    }

    bool clip() {
        if (!elsewhere_.global_norm && skips()) return false;
        const std::vector<FO_TARGET::ClippedNorm> clipped = clip_norms();
        const DefaultFloatEnvironment environment;
        const double norm = elsewhere_.global_norm ? *elsewhere_.global_norm
                                                   : FO_TARGET::norm_in_order(
                                                         step_.norm_type(), static_cast<std::uint32_t>(clipped.size()),
                                                         [&](std::uint32_t i) { return clipped[i].norm; });
        for (Index i = 0; i < step_.count; ++i) {
            if (!step_.gradients[i].data) continue;
            const StepConstants& constants = step_.constants_of(i);
            step_.gradients[i].clip = clipped[static_cast<std::size_t>(param_of(i))].factor *
                                      FO_TARGET::clip_factor(constants.clip_global_norm, norm, constants.clip_eps);
        }
        return true;
    }

    void before_reduce(const Pass& pass) {
        const DefaultFloatEnvironment environment;
        const auto prepare = [this](Index i) {
            if (const auto f = rule_of(i).before_reduce)
                f(constants_of(i), step_.segments[i].p.format, step_.segments[i].scalar_state);
        };
        for_params(pass, prepare, &takes_part);
    }

    void reduce_rule(const Pass& pass) {
        reduce(pass, [this](Index i) -> Reduce {
            if (!step_.gradients[i].data || rule_of(i).sums == 0) return nullptr;
            return choose(step_.segments[i].p.format, loops_of(i).reduce_f32, loops_of(i).reduce_f64);
        });
    }

    // Replace the sums of each parameter by those of all.
    void reduce_all() {
        const DefaultFloatEnvironment environment;
        const Index params = step_.params();
        for (int k = 0; k < kMaxSums; ++k) {
            const double sum = elsewhere_.sums
                                   ? elsewhere_.sums[k]
                                   : FO_TARGET::add_in_order(static_cast<std::uint32_t>(params),
                                                             [&](std::uint32_t param) { return sums_of(param)[k]; });
            for (Index param = 0; param < params; ++param) sums_of(param)[k] = sum;
        }
    }

    bool has_row_state(Index i) const { return step_.gradients[i].data && rule_of(i).has_row_state; }

    // Return the rows of segment i that the step updates, if their rule keeps a number for each.
    Index reduced_rows(Index i) const {
        return has_row_state(i) && step_.stepped(i) > 0 ? step_.stepped(i) / step_.segments[i].rows.size : 0;
    }

    Index most_rows(const std::vector<Pass>& passes) const {
        Index most = 0;
        for (const Pass& pass : passes) {
            Index rows = 0;
            if (pass.kind == PassKind::kReduceRows)
                for (Index i = pass.begin; i < pass.end; ++i) rows += reduced_rows(i);
            most = std::max(most, rows);
        }
        return most;
    }

    void reduce_rows(const Pass& pass) {
        const Index first = pass.begin;
        double* factors = factors_.data();  // of either compute type
        for (Index i = first; i < pass.end; ++i) {
            step_.gradients[i].row_factors = factors;
            factors += reduced_rows(i);
        }
        concatenate(
            pass.end - first, [&](Index i) { return has_row_state(first + i) ? step_.stepped(first + i) : 0; },
            begins_);
        const auto row_size = [&](Index i) { return std::max<Index>(step_.segments[first + i].rows.size, 1); };
        for_shares(begins_, min_share_of(step_, pass), 1, row_size, [&](Index i, Index begin, Index end) {
            const Index at = first + i;
            void* const own = const_cast<void*>(step_.gradients[at].row_factors);
            RowReduction(step_, at, loops_of(at), loops_.gradient, loops_.storage, own).run(begin, end);
        });
    }

    void finalize(const Pass& pass) {
        const DefaultFloatEnvironment environment;
        const auto complete = [this](Index i) {
            if (const auto f = rule_of(i).finalize)
                f(constants_of(i), step_.segments[i].p.format, sums_of(param_of(i)), step_.segments[i].scalar_state);
        };
        for_params(pass, complete, &takes_part);
    }

    void count_agreeing(const Pass& pass) {
        const auto is_cautious = [this](Index i) { return step_.gradients[i].data && step_.constants_of(i).cautious; };
        reduce(pass, [&](Index i) -> Reduce {
            if (!is_cautious(i)) return nullptr;
            return choose(step_.segments[i].p.format, loops_of(i).count_f32, loops_of(i).count_f64);
        });
        for (Index i = pass.begin, end; i < pass.end; i = end) {
            Index elements = 0;
            for (end = i; end < pass.end && param_of(end) == param_of(i); ++end) elements += step_.stepped(end);
            for (Index k = i; k < end; ++k)
                if (is_cautious(k))
                    step_.gradients[k].step_scale =
                        FO_TARGET::cautious_scale(sums_of(param_of(k))[0], double(elements));
        }
    }

    StepConstants& constants_of(Index i) const { return step_.constants[step_.gradients[i].constants]; }

    const StepArgs& step_;
    const Loops& loops_;
    const Elsewhere elsewhere_;
    std::vector<Index> begins_;    // of the segments of the pass
    std::vector<double> tiles_;    // the sums of each tile of the pass, kMaxSums apart
    std::vector<double> sums_;     // over each parameter, kMaxSums apart
    std::vector<double> factors_;  // memory for those of each row of the pass
};

bool some_rule_finalizes(const StepArgs& step) {
    return std::any_of(step.constants, step.constants + step.constants_count,
                       [](const StepConstants& each) { return rule_info(each.rule).finalize != nullptr; });
}

// Give each parameter whose rule has a finalize function constants of its own, which are kept in `constants`.
StepArgs with_own_constants(const StepArgs& step, std::vector<StepConstants>& constants) {
    constants.assign(step.constants, step.constants + step.constants_count);
    for (Index i = 0; i < step.count; ++i) {
        Gradient& gradient = step.gradients[i];
        if (!takes_part(step, i) || !rule_info(constants[gradient.constants].rule).finalize) continue;
        if (i > 0 && step.segments[i].param == step.segments[i - 1].param) {
            gradient.constants = step.gradients[i - 1].constants;
        } else {
            constants.push_back(StepConstants(constants[gradient.constants]));
            gradient.constants = static_cast<std::int32_t>(constants.size() - 1);
        }
    }
    return {step.segments, step.gradients, step.count, constants.data(), static_cast<Index>(constants.size())};
}

class CpuDevice final : public Device {
  public:
    explicit CpuDevice(const Loops& loops) : loops_(loops) {}

    bool step(const StepArgs& shared, void*, const Elsewhere& elsewhere) override {
        std::vector<StepConstants> constants;
        StepArgs step = shared;
        if (some_rule_finalizes(shared)) step = with_own_constants(shared, constants);
        const std::vector<Pass> passes = plan_passes(step, &batch_elements, elsewhere.sums != nullptr);
        Execution execution(step, loops_, passes, elsewhere);
        for (const Pass& pass : passes)
            if (!execution.run(pass)) return false;
        return true;
    }

    std::vector<double> rule_sums(const StepArgs& shared, void*, const Elsewhere& elsewhere) override {
        std::vector<StepConstants> constants;
        const StepArgs step = with_own_constants(shared, constants);
        std::vector<Pass> passes = plan_passes(step);
        const auto is_reduce_all = [](const Pass& pass) { return pass.kind == PassKind::kReduceAll; };
        passes.erase(std::find_if(passes.begin(), passes.end(), is_reduce_all), passes.end());
        if (passes.empty()) passes.push_back({PassKind::kReduceRule, 0, step.count});  // without a gradient, zeros
        Execution execution(step, loops_, passes, elsewhere);
        for (const Pass& pass : passes) execution.run(pass);
        return execution.rule_sums();
    }

    std::optional<std::vector<double>> clipped_norms(const StepArgs& step, void*) override {
        const Pass pass{PassKind::kReduceGradients, 0, step.count};
        Execution execution(step, loops_, {pass});
        execution.reduce_gradients(pass, true);
        if (execution.skips()) return std::nullopt;
        std::vector<double> norms;
        for (const FO_TARGET::ClippedNorm& each : execution.clip_norms()) norms.push_back(each.norm);
        return norms;
    }

    void advance(const std::vector<StepConstants>&, void*) override { throw std::logic_error("the CPU has no graphs"); }

  private:
    const Loops loops_;
};

}  // namespace

std::unique_ptr<Device> make_device(const Loops& loops) { return std::make_unique<CpuDevice>(loops); }

}  // namespace fo::cpu
