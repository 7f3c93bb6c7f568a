# The kernels (src/kernels/*_isa.cpp) are compiled once per instruction-set path, each in a
# namespace of its own (OPO_ISA), into the one library; src/kernels/dispatch.cpp chooses at start-up.
# Nothing else in the tree is compiled for more than the baseline.
file(GLOB isa_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/kernels/*_isa.cpp)
function(opo_isa_objects name)
  add_library(opo_kernels_${name} OBJECT ${isa_sources})
  set_target_properties(opo_kernels_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_include_directories(opo_kernels_${name} PRIVATE ${PROJECT_SOURCE_DIR}/src)
  target_compile_definitions(opo_kernels_${name} PRIVATE OPO_ISA=isa_${name})
  target_compile_options(opo_kernels_${name} PRIVATE ${ARGN})
  target_link_libraries(opo_kernels_${name} PRIVATE opo_flags)
endfunction()
function(opo_isa_path name)
  opo_isa_objects(${name} ${ARGN})
  target_sources(opo_kernels PRIVATE $<TARGET_OBJECTS:opo_kernels_${name}>)
endfunction()
opo_isa_path(portable)
opo_isa_path(avx2 -mavx2 -mfma -mbmi2)
set(avx512 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mbmi2 -mprefer-vector-width=512)
opo_isa_path(avx512 ${avx512})
opo_isa_path(avx512bf16 ${avx512} -mavx512bf16)
opo_isa_path(amx ${avx512} -mavx512bf16 -mamx-tile -mamx-bf16 -DOPO_AMX)
# Over the scalar twin of its tiles it is compiled for tests only (tests/CMakeLists.txt).
