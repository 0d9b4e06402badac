#pragma once

// Stands in front of CUDA's header of this name when the .cu files are compiled for the emulator.

#include "emu/device.h"
#include "emu/ptx.h"
#include "emu/runtime.h"
