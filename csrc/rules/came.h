// CAME: Adafactor's normalized gradient, whose mean is divided by its own instability over rows and columns.
// Luo et al., 2023, arXiv:2307.02047
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct CameNormalized {
    static constexpr bool broadcasts = true;
    static constexpr std::array scalar_state{"size"};
    static constexpr int sums = 1;

    double clip_threshold;
    Ema<T> mean1;
    T scale = 1;

    FO_HD CameNormalized(double clip_threshold, double beta1) : clip_threshold(clip_threshold), mean1(beta1) {}

    FO_HD T normalized(T g, T row_factor, T column_factor) const { return g * (row_factor * column_factor); }

    // The term of the squared norm of the normalized gradient.
    FO_HD std::array<double, sums> terms_of(T g, T row_factor, T column_factor) const {
        const double u(normalized(g, row_factor, column_factor));
        return {u * u};
    }

    FO_HD void finalize(const double* sums, double* const* size) {
        scale = T(1 / max(sqrt(sums[0] / **size) / clip_threshold, 1.0));
    }

    FO_HD T clipped(T g, T row_factor, T column_factor) const {
        return scale * normalized(g, row_factor, column_factor);
    }
};

// Writes the difference of the clipped gradient and its next mean to x.
template <class T>
struct CameResidual : CameNormalized<T> {
    static constexpr const char* name = "came_residual";
    static constexpr std::array hyper{"clip_threshold", "beta1"};
    static constexpr std::array state{"m", "row_factor", "column_factor", "x"};

    FO_HD CameResidual(const Clock&, double clip_threshold, double beta1) : CameNormalized<T>(clip_threshold, beta1) {}

    FO_HD std::array<double, 1> reduce_terms(Unread, T g, Unread, T row_factor, T column_factor, Unread) const {
        return this->terms_of(g, row_factor, column_factor);
    }

    FO_HD void operator()(Unread, T g, T m, T row_factor, T column_factor, T& x) const {
        const T u = this->clipped(g, row_factor, column_factor);
        x = u - this->mean1(m, u);
    }
};

template <class T>
struct CAME : CameNormalized<T> {
    static constexpr const char* name = "came";
    static constexpr std::array hyper{"lr", "clip_threshold", "beta1"};
    static constexpr std::array state{"m", "row_factor", "column_factor", "residual_row_factor",
                                      "residual_column_factor"};

    T lr;

    FO_HD CAME(const Clock&, double lr, double clip_threshold, double beta1)
        : CameNormalized<T>(clip_threshold, beta1), lr(T(lr)) {}

    FO_HD std::array<double, 1> reduce_terms(Unread, T g, Unread, T row_factor, T column_factor, Unread, Unread) const {
        return this->terms_of(g, row_factor, column_factor);
    }

    FO_HD T step(Unread, T g, T& m, T row_factor, T column_factor, T residual_row_factor,
                 T residual_column_factor) const {
        m = this->mean1(m, this->clipped(g, row_factor, column_factor));
        return lr * (m * (residual_row_factor * residual_column_factor));
    }
};

FO_RULE(CameResidual)
FO_RULE(CAME)

}  // namespace fo::FO_TARGET
