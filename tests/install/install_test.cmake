set(work ${BUILD_DIR}/install_test)
set(prefix ${work}/prefix)
file(REMOVE_RECURSE ${work})

function(run)
  execute_process(COMMAND ${ARGN} WORKING_DIRECTORY ${SOURCE_DIR} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${prefix})
run(${prefix}/bin/opo --help)
run(${CMAKE_COMMAND} -S examples/library -B ${work}/example -G ${GENERATOR}
    -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH=${prefix})
run(${CMAKE_COMMAND} --build ${work}/example)
run(${work}/example/train_tiny examples/tiny.toml
    train.steps=2 run.dir=${work}/run)
if(NOT EXISTS ${work}/run/metrics.jsonl)
  message(FATAL_ERROR "${work}/run/metrics.jsonl: the example's run wrote none")
endif()
