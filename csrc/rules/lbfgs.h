// L-BFGS: the passes over its vectors, which are flat arrays in the compute type.  Each is a rule, so that every device
// and the reference have them.  The recursion itself is in Python, on numbers: fastoptim/lbfgs/history.py.
// Liu & Nocedal, 1989, doi:10.1007/BF01589116
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct LbfgsScale {
    static constexpr const char* name = "lbfgs_scale";
    static constexpr std::array hyper{"lr"};
    static constexpr std::array<const char*, 0> state{};

    T factor;

    FO_HD LbfgsScale(const Clock&, double factor) : factor(T(factor)) {}

    FO_HD void operator()(T& p, T g) const { p = factor * g; }
};

template <class T>
struct LbfgsAdd {
    static constexpr const char* name = "lbfgs_add";
    static constexpr std::array hyper{"lr"};
    static constexpr std::array state{"x"};

    T factor;

    FO_HD LbfgsAdd(const Clock&, double factor) : factor(T(factor)) {}

    FO_HD void operator()(T& p, T g, T x) const { p = x + factor * g; }
};

// Adds the terms of a pair (s, y) to the direction p.  The gradient argument is y.
template <class T>
struct LbfgsAddPair {
    static constexpr const char* name = "lbfgs_add_pair";
    static constexpr std::array hyper{"lr", "s0_factor"};
    static constexpr std::array state{"s0"};

    T y0_factor, s0_factor;

    FO_HD LbfgsAddPair(const Clock&, double y0_factor, double s0_factor)
        : y0_factor(T(y0_factor)), s0_factor(T(s0_factor)) {}

    FO_HD void operator()(T& p, T y0, T s0) const { p = p + (y0_factor * y0 + s0_factor * s0); }
};

// The same for four pairs one after another.
template <class T>
struct LbfgsAddFour {
    static constexpr const char* name = "lbfgs_add_four";
    static constexpr std::array hyper{"lr",        "s0_factor", "y1_factor", "s1_factor",
                                      "y2_factor", "s2_factor", "y3_factor", "s3_factor"};
    static constexpr std::array state{"s0", "y1", "s1", "y2", "s2", "y3", "s3"};

    T y0_factor, s0_factor, y1_factor, s1_factor, y2_factor, s2_factor, y3_factor, s3_factor;

    FO_HD LbfgsAddFour(const Clock&, double y0_factor, double s0_factor, double y1_factor, double s1_factor,
                       double y2_factor, double s2_factor, double y3_factor, double s3_factor)
        : y0_factor(T(y0_factor)),
          s0_factor(T(s0_factor)),
          y1_factor(T(y1_factor)),
          s1_factor(T(s1_factor)),
          y2_factor(T(y2_factor)),
          s2_factor(T(s2_factor)),
          y3_factor(T(y3_factor)),
          s3_factor(T(s3_factor)) {}

    FO_HD void operator()(T& p, T y0, T s0, T y1, T s1, T y2, T s2, T y3, T s3) const {
        T sum = p + (y0_factor * y0 + s0_factor * s0);
        sum = sum + (y1_factor * y1 + s1_factor * s1);
        sum = sum + (y2_factor * y2 + s2_factor * s2);
        p = sum + (y3_factor * y3 + s3_factor * s3);
    }
};

// The inner product of p and g, over all arrays.  A step leaves it in the scalar state and changes nothing else.
template <class T>
struct LbfgsDot {
    static constexpr const char* name = "lbfgs_dot";
    static constexpr std::array<const char*, 0> hyper{};
    static constexpr std::array<const char*, 0> state{};
    static constexpr std::array scalar_state{"p_g"};
    static constexpr int sums = 1;
    static constexpr bool reduces_all = true;

    FO_HD explicit LbfgsDot(const Clock&) {}

    FO_HD std::array<double, sums> reduce_terms(T p, T g) const { return {double(p) * double(g)}; }

    FO_HD void finalize(const double* sums, double* const* scalar_state) { *scalar_state[0] = sums[0]; }

    FO_HD void operator()(Unread, Unread) const {}
};

// The inner products of the gradient with the vectors of a pair, of which s is the parameter argument.
template <class T>
struct LbfgsDots {
    static constexpr const char* name = "lbfgs_dots";
    static constexpr std::array<const char*, 0> hyper{};
    static constexpr std::array state{"y"};
    static constexpr std::array scalar_state{"s_g", "y_g"};
    static constexpr int sums = 2;
    static constexpr bool reduces_all = true;

    FO_HD explicit LbfgsDots(const Clock&) {}

    FO_HD std::array<double, sums> reduce_terms(T s, T g, T y) const {
        return {double(s) * double(g), double(y) * double(g)};
    }

    FO_HD void finalize(const double* sums, double* const* scalar_state) {
        *scalar_state[0] = sums[0];
        *scalar_state[1] = sums[1];
    }

    FO_HD void operator()(Unread, Unread, Unread) const {}
};

FO_RULE(LbfgsScale)
FO_RULE(LbfgsAdd)
FO_RULE(LbfgsAddPair)
FO_RULE(LbfgsAddFour)
FO_RULE(LbfgsDot)
FO_RULE(LbfgsDots)

}  // namespace fo::FO_TARGET
