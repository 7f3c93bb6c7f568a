# The files of the report's page, built into opo_report: Chart.js as Debian packs it, and our own.
find_file(OPO_CHART_JS chart.min.js PATHS /usr/share/javascript/chart.js NO_DEFAULT_PATH REQUIRED)
set(page_folder ${PROJECT_SOURCE_DIR}/src/report)
# The scripts in the order in which they run.
set(page_files kChartScript=${OPO_CHART_JS} kPageHtml=${page_folder}/page.html
    kPageCss=${page_folder}/page.css)
foreach(script base verdict curves rollouts tables)
  list(APPEND page_files script=${page_folder}/page_${script}.js)
endforeach()
list(JOIN page_files "," page_list)
string(REGEX REPLACE "[a-zA-Z]+=" "" page_sources "${page_files}")
set(page_assets ${PROJECT_BINARY_DIR}/report_assets.cpp)
add_custom_command(OUTPUT ${page_assets}
  COMMAND ${CMAKE_COMMAND} -D OUT=${page_assets} -D FILES=${page_list}
          -P ${PROJECT_SOURCE_DIR}/cmake/embed.cmake
  DEPENDS ${page_sources} ${PROJECT_SOURCE_DIR}/cmake/embed.cmake VERBATIM)
target_sources(opo_report PRIVATE ${page_assets})
