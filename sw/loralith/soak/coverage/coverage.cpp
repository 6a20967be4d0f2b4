// The machine of model.cpp, of a design that counts: keeps the sum of the counts of all machines, and writes it.
//
// Verilator's list of all points takes seconds to make, and each design would make its own. Only one does, which never runs: see
// `covered_device.py`, which has the others set their counters to zero in its place.
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

// Whether a design that is made now lists its points.
bool loralith_lists_points = false;

namespace loralith {

struct Listed {
    VerilatedContext context;
    Vloralith top{&context};
};

// It stays until the process ends, and its list with it.
Listed& listed() {
    static Listed* const one = [] {
        loralith_lists_points = true;
        auto* made = new Listed;
        loralith_lists_points = false;
        return made;
    }();
    return *one;
}

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

// Writes the sum, and sets it to zero.
void loralith_coverage_write(Model* model, const char* path) {
    loralith_coverage_add(model);
    auto& listed = loralith::listed();
    auto& counts = listed.top.rootp->vlSymsp->__Vcoverage;
    auto& total = loralith::total;
    for (size_t i = 0; i < total.size(); ++i) counts[i] = total[i] > UINT32_MAX ? UINT32_MAX : static_cast<uint32_t>(total[i]);
    listed.context.coveragep()->write(path);
    total.clear();
}

}  // extern "C"
