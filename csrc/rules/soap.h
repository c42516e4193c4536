// SOAP: Adam in the eigenbases of Shampoo's factors.  The first rule writes the prepared gradient to r, which the array
// library turns into the bases.  The second one writes Adam's direction there to o, which the library turns back.  The
// third one takes the step.  Until then no array of the caller's has changed.
// Vyas et al., 2024, arXiv:2409.11321; https://github.com/nikhilvyas/SOAP
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct SoapGradient {
    static constexpr const char* name = "soap_gradient";
    static constexpr std::array<const char*, 0> hyper{};
    static constexpr std::array state{"r"};

    FO_HD explicit SoapGradient(const Clock&) {}

    FO_HD void operator()(Unread, T g, T& r) const { r = g; }
};

template <class T>
struct SoapMoments {
    static constexpr std::array state{"m", "v", "r", "o"};

    Ema<T> mean1, mean2;

    FO_HD SoapMoments(double beta1, double beta2) : mean1(beta1), mean2(beta2) {}
};

template <class T>
struct SoapDirection : SoapMoments<T> {
    static constexpr const char* name = "soap_direction";
    static constexpr std::array hyper{"beta1", "beta2", "eps"};

    T eps;

    FO_HD SoapDirection(const Clock&, double beta1, double beta2, double eps)
        : SoapMoments<T>(beta1, beta2), eps(T(eps)) {}

    FO_HD void operator()(Unread, Unread, T m, T v, T r, T& o) const {
        o = this->mean1(m, r) / (sqrt(this->mean2.of_square(v, r)) + eps);
    }
};

template <class T>
struct Soap : SoapMoments<T> {
    static constexpr const char* name = "soap";
    static constexpr std::array hyper{"beta1", "beta2", "step_size"};

    T step_size;

    FO_HD Soap(const Clock&, double beta1, double beta2, double step_size)
        : SoapMoments<T>(beta1, beta2), step_size(T(step_size)) {}

    FO_HD T step(Unread, Unread, T& m, T& v, T r, T o) const {
        m = this->mean1(m, r);
        v = this->mean2.of_square(v, r);
        return step_size * o;
    }
};

FO_RULE(SoapGradient)
FO_RULE(SoapDirection)
FO_RULE(Soap)

}  // namespace fo::FO_TARGET
