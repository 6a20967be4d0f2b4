// The lanes' ports by number: the model has one of a name for each.
#pragma once
#include "Vlane_group.h"

#define LORALITH_PORT(name, type) \
    inline type* name(Vlane_group& top, int lane) { return lane ? &top.name##___05F1 : &top.name##___05F0; }

LORALITH_PORT(integers, IData)
LORALITH_PORT(v0, IData)
LORALITH_PORT(v1, IData)
LORALITH_PORT(words, IData)

inline QData sums(Vlane_group& top, int lane) { return lane ? top.sums___05F1 : top.sums___05F0; }
inline IData maxima(Vlane_group& top, int lane) { return lane ? top.maxima___05F1 : top.maxima___05F0; }
