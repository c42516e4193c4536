// Adafactor: steps divided by a second moment that is estimated from its means over rows and columns.
// Shazeer & Stern, 2018, arXiv:1804.04235
//
// Engines compute those means and from them two factors, whose product at most `1 / eps1` is the inverse root of the
// moment: one number for each row and one for each column, read as arrays of the parameter's shape.
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

// Writes the prepared gradient, of which the means are taken.
template <class T>
struct FactoredGradient {
    static constexpr const char* name = "factored_gradient";
    static constexpr std::array<const char*, 0> hyper{};
    static constexpr std::array state{"x"};

    FO_HD explicit FactoredGradient(const Clock&) {}

    FO_HD void operator()(Unread, T g, T& x) const { x = g; }
};

template <class T>
struct Adafactor {
    static constexpr const char* name = "adafactor";
    static constexpr bool broadcasts = true;
    static constexpr std::array hyper{"d", "rate", "eps1", "eps2", "scale_parameter"};
    static constexpr std::array state{"row_factor", "column_factor"};
    static constexpr std::array scalar_state{"size"};
    static constexpr int sums = 2;

    double d, rate, eps2;
    T limit, step_size = 0;
    bool scale_parameter;

    // An infinite eps1 is the machine epsilon.
    FO_HD Adafactor(const Clock&, double d, double rate, double eps1, double eps2, double scale_parameter)
        : d(d),
          rate(rate),
          eps2(eps2),
          limit(T(1 / (eps1 < INFINITY  ? eps1
                       : sizeof(T) == 4 ? double(FLT_EPSILON)
                                        : DBL_EPSILON))),
          scale_parameter(scale_parameter != 0) {}

    FO_HD T normalized(T g, T row_factor, T column_factor) const {
        return g * at_most(row_factor * column_factor, limit);
    }

    // The terms of the squared norms of the normalized gradient and of the parameter.
    FO_HD std::array<double, sums> reduce_terms(T p, T g, T row_factor, T column_factor) const {
        const double u(normalized(g, row_factor, column_factor)), x(p);
        return {u * u, x * x};
    }

    FO_HD void finalize(const double* sums, double* const* size) {
        const double u_rms = sqrt(sums[0] / **size), p_rms = sqrt(sums[1] / **size);
        const double scale = scale_parameter ? max(p_rms, eps2) : 1;
        step_size = T(scale * rate / max(u_rms / d, 1.0));
    }

    FO_HD T step(Unread, T g, T row_factor, T column_factor) const {
        return step_size * normalized(g, row_factor, column_factor);
    }
};

// With a moving average of the steps.
template <class T>
struct AdafactorMomentum : Adafactor<T> {
    static constexpr const char* name = "adafactor_momentum";
    static constexpr std::array hyper{"d", "rate", "eps1", "eps2", "scale_parameter", "beta1"};
    static constexpr std::array state{"m", "row_factor", "column_factor"};

    Ema<T> mean1;

    FO_HD AdafactorMomentum(const Clock& clock, double d, double rate, double eps1, double eps2, double scale_parameter,
                            double beta1)
        : Adafactor<T>(clock, d, rate, eps1, eps2, scale_parameter), mean1(beta1) {}

    FO_HD std::array<double, 2> reduce_terms(T p, T g, Unread, T row_factor, T column_factor) const {
        return Adafactor<T>::reduce_terms(p, g, row_factor, column_factor);
    }

    FO_HD T step(Unread, T g, T& m, T row_factor, T column_factor) const {
        m = mean1(m, this->step_size * this->normalized(g, row_factor, column_factor));
        return m;
    }
};

FO_RULE(FactoredGradient)
FO_RULE(Adafactor)
FO_RULE(AdafactorMomentum)

}  // namespace fo::FO_TARGET
