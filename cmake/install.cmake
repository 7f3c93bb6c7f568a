# cmake --install: bin/opo, lib/libopo_*.a, include/opo, lib/cmake/opo. A project that says
# find_package(opo) links opo::opo (everything), or a room: opo::model, opo::algo, ...
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/opo)

install(TARGETS opo RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS ${OPO_ROOMS} EXPORT opoTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY src/ DESTINATION include/opo FILES_MATCHING PATTERN "*.h")
install(EXPORT opoTargets NAMESPACE opo:: DESTINATION ${package_dir})
configure_package_config_file(cmake/opoConfig.cmake.in opoConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(opoConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/opoConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/opoConfigVersion.cmake DESTINATION ${package_dir})
