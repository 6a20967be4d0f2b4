// The machine of model.cpp, of a design that counts: keeps the sum of the counts of all machines, and writes it.
#include "model.cpp"

#include "Vloralith__Syms.h"
#include "Vloralith___024root.h"
#include "verilated_cov.h"

namespace loralith {

// The design is private to its machine; an explicit instantiation may name it.
Vloralith& design_of(Model& model);
template <Vloralith Model::* Member>
struct Design {
    friend Vloralith& design_of(Model& model) { return model.*Member; }
};
template struct Design<&Model::m_top>;

std::vector<uint64_t> total;

}  // namespace loralith

extern "C" {

// Adds the counts of a machine to the sum, and sets them to zero.
void loralith_coverage_add(Model* model) {
    auto& counts = loralith::design_of(*model).rootp->vlSymsp->__Vcoverage;
    const size_t size = sizeof(counts) / sizeof(counts[0]);
    loralith::total.resize(size);
    for (size_t i = 0; i < size; ++i) {
        loralith::total[i] += counts[i];
        counts[i] = 0;
    }
}

// Writes the sum by way of the youngest machine, and sets it to zero.
void loralith_coverage_write(Model* model, const char* path) {
    loralith_coverage_add(model);
    auto& counts = loralith::design_of(*model).rootp->vlSymsp->__Vcoverage;
    auto& total = loralith::total;
    for (size_t i = 0; i < total.size(); ++i) counts[i] = total[i] > UINT32_MAX ? UINT32_MAX : static_cast<uint32_t>(total[i]);
    Verilated::threadContextp()->coveragep()->write(path);
    for (size_t i = 0; i < total.size(); ++i) counts[i] = 0;
    total.clear();
}

}  // extern "C"
