#include "layer_tuner.h"

#include <algorithm>

namespace fo::cpu {
namespace {

constexpr double kCredit = 20e6;           // ns; largest balance: a few interruptions
constexpr double kFirstCredit = 5e6;       // ns; balance of the first layer of a size
constexpr double kInterest = 0.03;         // part of the time in other layers that reduces a debt
constexpr int kSettle = 8;                 // passes before the first trial of another layer
constexpr int kManyPasses = 1000;          // the count of passes ends here
constexpr int kMemory = 16;                // passes in the running mean
constexpr double kStall = 2;               // longer relative times count as this in the mean, in full in the balance
constexpr double kBetter = 0.93;           // a trial must be faster than this to replace the current layer
constexpr double kMuchBetter = 0.87;       // the same for OpenMP if no other library uses its threads, which then spin
constexpr double kTrialDebt = 6;           // passes; smallest debt after a rejected trial
constexpr int kMaxDoublings = 4;           // of that debt, after consecutive failures
constexpr double kOpenMPTrialDebt = 10e6;  // ns; OpenMP's threads spin for milliseconds afterwards
constexpr double kHopeless = 3, kHopelessNs = 5e5;  // factor, ns; three passes slower than both end a trial
constexpr int kHopelessPasses = 3;
constexpr std::int64_t kOpenMPSpins = 8'000'000;  // ns after a trial of OpenMP in which its threads disturb the pool

std::size_t at(Layer layer) { return static_cast<std::size_t>(layer); }

}  // namespace

Layer LayerTuner::preferred(Options options) {
    return options.openmp && options.prefer_openmp ? Layer::kOpenMP : Layer::kPool;
}

Layer LayerTuner::current(Options options) const {
    if (!last_) return preferred(options);
    return last_->current == Layer::kOpenMP && !options.openmp ? Layer::kPool : last_->current;
}

// Return whether the layer's threads keep spinning after a pass although no other library uses them.
bool LayerTuner::spins_on(const Size& size, Layer layer) {
    return layer == Layer::kOpenMP && !size.options.prefer_openmp;
}

bool LayerTuner::may_use(const Size& size, Layer layer) {
    if (layer == Layer::kOpenMP && !size.options.openmp) return false;
    return layer == Layer::kSerial || size.accounts[at(layer)].balance >= 0;
}

// Return the relative time of the best other layer; that of one thread is 1.
double LayerTuner::best_other(const Size& size, Layer layer) {
    double best = 1;
    for (const Layer other : {Layer::kPool, Layer::kOpenMP})
        if (other != layer && size.accounts[at(other)].passes > 0 && may_use(size, other))
            best = std::min(best, size.accounts[at(other)].time);
    return best;
}

void LayerTuner::leave(Size& size, Layer layer) {
    // Conditions have changed.  A trial of the pool is cheap, a trial of OpenMP is not.
    if (layer == Layer::kOpenMP) {
        Account& pool = size.accounts[at(Layer::kPool)];
        pool.balance = std::max(pool.balance, 0.0);
        pool.failures = 0;
    }
    size.current = Layer::kSerial;
    double best = 1;
    for (const Layer other : {Layer::kPool, Layer::kOpenMP}) {
        const Account& account = size.accounts[at(other)];
        if (other == layer || account.passes == 0 || !may_use(size, other) || account.time >= best) continue;
        best = account.time;
        size.current = other;
    }
}

Layer LayerTuner::choose(std::int64_t length, Options options, std::int64_t now) {
    Size& size = size_of(length);
    if (!size.used || options.prefer_openmp != size.options.prefer_openmp) {
        size = Size{};
        size.used = true;
        size.current = preferred(options);
        size.accounts[at(size.current)].balance = kFirstCredit;
    }
    size.options = options;
    if (size.trial == Layer::kOpenMP && !options.openmp) size.trial_left = 0;  // a fork in the middle of a trial
    if (!may_use(size, size.current)) leave(size, size.current);
    if (size.trial_left == 0) {
        const Account& current = size.accounts[at(size.current)];
        const bool settled = size.current == Layer::kSerial || current.passes >= kSettle;
        for (const Layer layer : {Layer::kPool, Layer::kOpenMP}) {
            if (!settled || layer == size.current || !may_use(size, layer)) continue;
            size.trial = layer;
            size.trial_left = kTrial;
            size.hopeless = 0;
            break;
        }
    }
    last_ = &size;
    size.now = now;
    return size.trial_left ? size.trial : size.current;
}

// Return the smallest debt of a layer that was not faster.  It doubles with each consecutive failure.
double LayerTuner::trial_debt(Size& size, Layer layer, double one_thread_ns) {
    int& failures = size.accounts[at(layer)].failures;
    const double factor = double(1 << failures);
    failures = std::min(failures + 1, kMaxDoublings);
    return factor * std::max(kTrialDebt * one_thread_ns, spins_on(size, layer) ? kOpenMPTrialDebt : 0);
}

// Return the median of all passes of a trial except the first.  It ignores a single interruption; the balance accounts
// for frequent ones.
double LayerTuner::median_of_trial(Size& size) {
    const auto middle = size.trial_times.begin() + (kTrial - 1) / 2;
    std::nth_element(size.trial_times.begin(), middle, size.trial_times.end() - 1);
    return *middle;
}

void LayerTuner::end_trial(Size& size, double one_thread_ns) {
    size.trial_left = 0;
    Account& account = size.accounts[at(size.trial)];
    const double current = size.current == Layer::kSerial ? 1 : size.accounts[at(size.current)].time;
    if (account.time < (spins_on(size, size.trial) ? kMuchBetter : kBetter) * current) {
        size.current = size.trial;
        account.failures = 0;
        account.balance = std::max(account.balance, 0.0);
        return;
    }
    account.balance = std::min(account.balance, -trial_debt(size, size.trial, one_thread_ns));
}

void LayerTuner::record(std::int64_t length, Layer layer, double ns, double one_thread_ns) {
    Size& size = size_of(length);
    for (const Layer other : {Layer::kPool, Layer::kOpenMP}) {
        double& balance = size.accounts[at(other)].balance;
        if (other != layer && balance < 0) balance = std::min(0.0, balance + kInterest * ns);
    }
    if (layer == Layer::kSerial && size.trial_left) {  // the layer under trial had no threads available
        size.trial_left = 0;
        size.accounts[at(size.trial)].balance = -kOpenMPTrialDebt;
    }
    if (layer == Layer::kSerial) return;
    if (one_thread_ns <= 0) one_thread_ns = size.one_thread_ns > 0 ? size.one_thread_ns : ns;
    size.one_thread_ns = one_thread_ns;

    Account& account = size.accounts[at(layer)];
    const double time = ns / one_thread_ns;
    account.passes = std::min(account.passes + 1, kManyPasses);
    if (account.passes == 1 && size.trial_left == 0) return;  // the threads were being created
    if (layer == Layer::kPool && size.now < size.disturbed_until && size.trial_left == 0) return;
    const double other = best_other(size, layer);
    account.balance = std::min(kCredit, account.balance + one_thread_ns * other - ns);
    if (size.trial_left == 0) {
        account.time += (std::min(time, kStall) - account.time) / std::min(account.passes - 1, kMemory);
        const bool useless = account.passes > kSettle && account.time > 1;
        if (useless) account.balance = std::min(account.balance, -trial_debt(size, layer, one_thread_ns));
        return;
    }
    size.trial_times[static_cast<std::size_t>(--size.trial_left)] = time;
    size.hopeless += time > kHopeless * other && ns - one_thread_ns > kHopelessNs;
    if (size.hopeless < kHopelessPasses && size.trial_left > 0) return;
    account.time = size.hopeless < kHopelessPasses ? median_of_trial(size) : time;
    if (layer == Layer::kOpenMP) size.disturbed_until = size.now + static_cast<std::int64_t>(ns) + kOpenMPSpins;
    end_trial(size, one_thread_ns);
}

}  // namespace fo::cpu
