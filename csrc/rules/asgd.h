// ASGD, averaged SGD: gradient descent with a decreasing learning rate, and the average of its iterates.
// Polyak & Juditsky, 1992, doi:10.1137/0330046; the learning rate: Xu, 2011, arXiv:1107.2490
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct ASGD {
    static constexpr const char* name = "asgd";
    static constexpr std::array hyper{"lambd", "eta", "mu"};
    static constexpr std::array state{"ax"};

    T decay, eta, mu;
    bool copies;

    FO_HD ASGD(const Clock&, double lambd, double eta, double mu)
        : decay(T(lambd * eta)), eta(T(eta)), mu(T(mu)), copies(mu == 1) {}

    // With mu = 1 the average is p exactly, which ax + (p - ax) is not after rounding.
    FO_HD void operator()(T& p, T g, T& ax) const {
        p = shrink(p, decay) - eta * g;
        const T average = ax + mu * (p - ax);
        ax = copies ? p : average;
    }
};

FO_RULE(ASGD)

}  // namespace fo::FO_TARGET
