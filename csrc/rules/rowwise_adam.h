// Row-wise Adam: Adam whose second moment is one number for each row, as embedding tables use it.
// The form of FBGEMM's PARTIAL_ROWWISE_ADAM; Kingma & Ba, 2015, arXiv:1412.6980.
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct RowwiseAdam {
    static constexpr const char* name = "rowwise_adam";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "eps"};
    static constexpr std::array state{"m", "v"};

    Ema<T> mean1;
    double step_size, beta2, bias_correction2, eps;

    FO_HD RowwiseAdam(const Clock& clock, double lr, double beta1, double beta2, double eps)
        : mean1(beta1),
          step_size(lr / mean1.bias_correction(clock)),
          beta2(beta2),
          bias_correction2(clock.bias_correction(beta2)),
          eps(eps) {}

    FO_HD std::array<double, 1> reduce_terms(Unread, T g, Unread, Unread) const { return {double(g) * double(g)}; }

    FO_HD T row_factor(double mean_square, T& v) const {
        v = T(beta2 * double(v) + (1 - beta2) * mean_square);
        return T(step_size / (sqrt(double(v) / bias_correction2) + eps));
    }

    FO_HD T step(Unread, T g, T& m, T factor) const {
        m = mean1(m, g);
        return factor * m;
    }
};

FO_RULE(RowwiseAdam)

}  // namespace fo::FO_TARGET
