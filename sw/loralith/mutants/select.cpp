// The machine of model.cpp, of a design that holds mutants: which one is in force.
#include "model.cpp"

namespace loralith {

// The design is private to its machine; an explicit instantiation may name it.
Vloralith& design_of(Model& model);
template <Vloralith Model::* Member>
struct Design {
    friend Vloralith& design_of(Model& model) { return model.*Member; }
};
template struct Design<&Model::m_top>;

}  // namespace loralith

// From the next reset on, since the design keeps the number in a register.
extern "C" void loralith_select_mutant(Model* model, unsigned number) { loralith::design_of(*model).mutant = number; }
