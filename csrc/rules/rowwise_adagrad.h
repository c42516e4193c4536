// Row-wise Adagrad: one sum of mean squared gradients for each row, as embedding tables use it.
// Mudigere et al., 2022, arXiv:2104.05158, section 4.1; the form of FBGEMM and TorchRec.
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct RowwiseAdagrad {
    static constexpr const char* name = "rowwise_adagrad";
    static constexpr std::array hyper{"lr", "eps"};
    static constexpr std::array state{"s"};

    double lr, eps;

    FO_HD RowwiseAdagrad(const Clock&, double lr, double eps) : lr(lr), eps(eps) {}

    FO_HD std::array<double, 1> reduce_terms(Unread, T g, Unread) const { return {double(g) * double(g)}; }

    FO_HD T row_factor(double mean_square, T& s) const {
        s = T(double(s) + mean_square);
        return T(lr / (sqrt(double(s)) + eps));
    }

    FO_HD T step(Unread, T g, T factor) const { return factor * g; }
};

FO_RULE(RowwiseAdagrad)

}  // namespace fo::FO_TARGET
