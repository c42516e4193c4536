# The CPU loops: one unit for each instruction set and group of rules.  A change to one rule rebuilds only its units.
# Sets fastoptim_loops, and fastoptim_probes for the bandwidth probe.

# Never -march=native: a wheel also runs on machines other than the one that built it.
set(fastoptim_isas baseline)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND NOT MSVC)
  list(APPEND fastoptim_isas avx2 avx512)
  target_compile_definitions(fastoptim_flags INTERFACE FO_X86)
endif()
if(FASTOPTIM_ISAS)
  set(fastoptim_isas ${FASTOPTIM_ISAS})
endif()
set(fastoptim_isa_avx2 -mavx2 -mf16c)
set(fastoptim_isa_avx512 -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)

# GCC prefetches in loops with enough arithmetic.  The out-of-order window covers too few iterations of such loops to
# hide memory latency (docs/performance.md).
set(fastoptim_prefetch -fprefetch-loop-arrays
  --param=prefetch-latency=300 --param=simultaneous-prefetches=32 --param=prefetch-min-insn-to-mem-ratio=1)
list(JOIN fastoptim_prefetch " " fastoptim_prefetch_line)
check_cxx_compiler_flag("${fastoptim_prefetch_line}" FASTOPTIM_CAN_PREFETCH)
if(FASTOPTIM_CAN_PREFETCH)
  set_source_files_properties(csrc/cpu/loop.cpp PROPERTIES COMPILE_OPTIONS "${fastoptim_prefetch}")
endif()

# The groups of rules: the includes of rules.h, fastoptim_unit_size at a time.
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS csrc/rules.h)
file(STRINGS csrc/rules.h fastoptim_rule_includes REGEX "^#include \"rules/")
set(fastoptim_unit_size 5)
list(LENGTH fastoptim_rule_includes fastoptim_rule_count)
math(EXPR fastoptim_last_unit "(${fastoptim_rule_count} - 1) / ${fastoptim_unit_size}")
set(fastoptim_units "")
foreach(unit RANGE ${fastoptim_last_unit})
  math(EXPR first "${unit} * ${fastoptim_unit_size}")
  list(SUBLIST fastoptim_rule_includes ${first} ${fastoptim_unit_size} includes)
  list(JOIN includes "\n" includes)
  file(CONFIGURE OUTPUT units/rules_${unit}.h CONTENT "${includes}\n" @ONLY)
  foreach(isa IN LISTS fastoptim_isas)
    set(target fastoptim_loop_${isa}_${unit})
    add_library(${target} OBJECT csrc/cpu/loop.cpp)
    target_compile_definitions(${target} PRIVATE
      FO_ISA=${isa} FO_TARGET=${isa}_${unit} FO_UNIT_RULES="rules_${unit}.h")
    target_include_directories(${target} PRIVATE csrc ${CMAKE_CURRENT_BINARY_DIR}/units)
    target_compile_options(${target} PRIVATE ${fastoptim_isa_${isa}})
    target_link_libraries(${target} PRIVATE fastoptim_flags)
    list(APPEND fastoptim_loops $<TARGET_OBJECTS:${target}>)
    string(APPEND fastoptim_units "FO_UNIT(${isa}, ${unit})\n")
  endforeach()
endforeach()
file(CONFIGURE OUTPUT units/units.inc CONTENT "${fastoptim_units}" @ONLY)

# What the loops of all rules share, and the bandwidth probe: a unit of each for each instruction set.
foreach(isa IN LISTS fastoptim_isas)
  set(target fastoptim_stages_${isa})
  add_library(${target} OBJECT
    csrc/cpu/decode.cpp csrc/cpu/norms.cpp csrc/cpu/stages.cpp csrc/cpu/storage.cpp)
  target_compile_definitions(${target} PRIVATE FO_ISA=${isa} FO_TARGET=${isa}_stages)
  target_compile_options(${target} PRIVATE ${fastoptim_isa_${isa}})
  target_link_libraries(${target} PRIVATE fastoptim_flags)
  list(APPEND fastoptim_loops $<TARGET_OBJECTS:${target}>)
  list(APPEND fastoptim_probes $<TARGET_OBJECTS:${target}>)

  set(target fastoptim_probe_${isa})
  add_library(${target} OBJECT csrc/bench/probe_loop.cpp)
  target_compile_definitions(${target} PRIVATE FO_ISA=${isa} FO_TARGET=${isa})
  target_compile_options(${target} PRIVATE ${fastoptim_isa_${isa}})
  target_link_libraries(${target} PRIVATE fastoptim_flags)
  list(APPEND fastoptim_probes $<TARGET_OBJECTS:${target}>)
  string(APPEND fastoptim_probe_list "FO_PROBE(${isa})\n")
endforeach()
file(CONFIGURE OUTPUT units/probes.inc CONTENT "${fastoptim_probe_list}" @ONLY)
