# The CUDA sources and libraries that FASTOPTIM_CUDA selects: sets fastoptim_cuda_sources and fastoptim_cuda_libraries.
set(fastoptim_cuda_sources csrc/cuda/no_cuda.cpp)
set(fastoptim_cuda_libraries "")
string(TOUPPER "${FASTOPTIM_CUDA}" fastoptim_cuda)
if(NOT fastoptim_cuda MATCHES "^(AUTO|ON|OFF|EMULATED)$")
  message(FATAL_ERROR "FASTOPTIM_CUDA: expected AUTO, ON, OFF or EMULATED, got '${FASTOPTIM_CUDA}'")
endif()
if(fastoptim_cuda STREQUAL "OFF")
  return()
endif()

set(fastoptim_cuda_parts 0 1 2 3)  # kParts of csrc/cuda/kernels.h
set(fastoptim_cuda_plain csrc/cuda/axis_sums.cpp csrc/cuda/gpu_device.cpp csrc/cuda/launcher.cpp csrc/cuda/row_buffers.cpp csrc/cuda/step_tables.cpp csrc/cuda/tensor_list.cpp)

# The same code as plain C++.  The arguments are so small that a dozen arrays do not fit into them.
if(fastoptim_cuda STREQUAL "EMULATED")
  foreach(part IN LISTS fastoptim_cuda_parts)
    foreach(kind kernels staged)
      set(library fastoptim_${kind}_${part})
      add_library(${library} OBJECT csrc/cuda/kernels.cu)
      target_compile_definitions(${library} PRIVATE
        FO_TARGET=gpu FO_PART=${part} $<$<STREQUAL:${kind},staged>:FO_STAGED> FO_ARGUMENT_BYTES=2048)
      target_link_libraries(${library} PRIVATE fastoptim_flags)
      list(APPEND fastoptim_kernels $<TARGET_OBJECTS:${library}>)
    endforeach()
  endforeach()
  set_source_files_properties(csrc/cuda/kernels.cu PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++;-O1")
  add_library(fastoptim_cuda OBJECT ${fastoptim_cuda_plain} csrc/cuda/emulated.cpp)
  target_compile_definitions(fastoptim_cuda PRIVATE FO_TARGET=gpu FO_ARGUMENT_BYTES=2048)
  target_link_libraries(fastoptim_cuda PRIVATE fastoptim_flags)
  set(fastoptim_cuda_sources $<TARGET_OBJECTS:fastoptim_cuda> ${fastoptim_kernels})
  message(STATUS "fastoptim: CUDA emulated, for tests")
  return()
endif()

include(CheckLanguage)
check_language(CUDA)
if(CMAKE_CUDA_COMPILER)
  # The real list is set below; enable_language needs some value.
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80)
  endif()
  enable_language(CUDA)
endif()
if(NOT CMAKE_CUDA_COMPILER OR CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.1)
  if(fastoptim_cuda STREQUAL "ON")
    message(FATAL_ERROR "FASTOPTIM_CUDA=ON: found no working nvcc of CUDA 12.1 or later (set CUDACXX to its path)")
  endif()
  message(STATUS "fastoptim: no working nvcc of CUDA 12.1 or later; built without CUDA")
  return()
endif()
find_package(CUDAToolkit REQUIRED)

set(fastoptim_architectures "${FASTOPTIM_CUDA_ARCHITECTURES}")
if(fastoptim_architectures STREQUAL "release")
  set(fastoptim_architectures 75-real 80-real 86-real 89-real 90-real 100-real 120)
elseif(NOT fastoptim_architectures)
  execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
    OUTPUT_VARIABLE seen RESULT_VARIABLE failed ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  string(REGEX MATCHALL "[0-9]+\\.[0-9]+" seen "${seen}")
  string(REPLACE "." "" fastoptim_architectures "${seen}")
  list(REMOVE_DUPLICATES fastoptim_architectures)
  if(failed OR NOT fastoptim_architectures)
    set(fastoptim_architectures 80)
  endif()
endif()
message(STATUS "fastoptim: CUDA ${CMAKE_CUDA_COMPILER_VERSION} for ${fastoptim_architectures}")

# The first line is the arithmetic contract, as in CMakeLists.txt.
add_library(fastoptim_cuda_flags INTERFACE)
target_compile_options(fastoptim_cuda_flags INTERFACE
  --fmad=false -prec-div=true -prec-sqrt=true -ftz=false
  --expt-relaxed-constexpr -Xptxas=-warn-spills,-warn-lmem-usage
  -Xcompiler=-ffp-contract=off,-fno-math-errno,-fno-trapping-math,-Wall,-Wextra
  $<$<VERSION_GREATER_EQUAL:${CMAKE_CUDA_COMPILER_VERSION},12.8>:--compress-mode=size>
  $<$<BOOL:${FASTOPTIM_WERROR}>:-Werror=all-warnings>)
target_compile_definitions(fastoptim_cuda_flags INTERFACE FO_TARGET=gpu)

# The machine code of an architecture runs on the later ones of its major version.  Kernels for staged arrays, of which
# arithmetic takes most of the time, use that to need less space.
set(fastoptim_staged_architectures ${fastoptim_architectures})
if(80-real IN_LIST fastoptim_architectures)
  list(REMOVE_ITEM fastoptim_staged_architectures 86-real 89-real)
endif()

foreach(part IN LISTS fastoptim_cuda_parts)
  foreach(kind kernels staged)
    set(library fastoptim_${kind}_${part})
    add_library(${library} OBJECT csrc/cuda/kernels.cu)
    target_compile_definitions(${library} PRIVATE FO_PART=${part} $<$<STREQUAL:${kind},staged>:FO_STAGED>)
    target_link_libraries(${library} PRIVATE fastoptim_cuda_flags)
    set_target_properties(${library} PROPERTIES
      CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON CUDA_EXTENSIONS OFF CUDA_VISIBILITY_PRESET hidden
      CUDA_ARCHITECTURES "${fastoptim_architectures}")
    if(kind STREQUAL "staged")
      set_target_properties(${library} PROPERTIES CUDA_ARCHITECTURES "${fastoptim_staged_architectures}")
    endif()
    list(APPEND fastoptim_kernels $<TARGET_OBJECTS:${library}>)
  endforeach()
endforeach()

# The run-time library is linked statically and looks for a driver at its first use.  Without a driver the module can be
# imported, and everything except CUDA works.
add_library(fastoptim_cuda OBJECT ${fastoptim_cuda_plain} csrc/cuda/device.cpp)
string(REPLACE ";" "," listed "${fastoptim_architectures}")
target_compile_definitions(fastoptim_cuda PRIVATE FO_TARGET=gpu FO_CUDA_ARCHITECTURES="${listed}")
target_link_libraries(fastoptim_cuda PRIVATE fastoptim_flags CUDA::cudart_static)
set(fastoptim_cuda_sources $<TARGET_OBJECTS:fastoptim_cuda> ${fastoptim_kernels})
set(fastoptim_cuda_libraries CUDA::cudart_static -Wl,--exclude-libs,libcudart_static.a)
