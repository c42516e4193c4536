// M-SVAG: momentum, each element damped by the relative variance of its mean gradient.
// Balles & Hennig, 2018, arXiv:1705.07774
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Msvag {
    static constexpr const char* name = "msvag";
    static constexpr std::array hyper{"lr", "beta"};
    static constexpr std::array state{"m", "v"};

    T keep, fresh, rate, bias, noise;

    // The factor mhat^2 / (mhat^2 + rho*s) with both halves times (1 - beta^t)^2: the corrections become constants.
    // noise = rho / (1 - rho), for rho = (1-beta)(1+beta^t) / ((1+beta)(1-beta^t)); a single gradient has no variance.
    FO_HD Msvag(const Clock& clock, double lr, double beta) : keep(decay<T>(beta)), fresh(rise(keep)) {
        const double b = double(keep), power = clock.power(b);
        rate = T(lr / (1 - power));
        bias = T(1 - power);
        noise = T(b > power ? (1 - b) * (1 + power) / (2 * (b - power)) : 0);
    }

    FO_HD void operator()(T& p, T g, T& m, T& v) const {
        m = keep * m + fresh * g;
        v = keep * v + fresh * g * g;
        const T square = m * m;
        const T whole = square + noise * at_least(bias * v - square, T(0));
        p -= rate * m * (square / (whole == T(0) ? T(1) : whole));
    }
};

FO_RULE(Msvag)

}  // namespace fo::FO_TARGET
