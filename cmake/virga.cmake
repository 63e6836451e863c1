# The house's build rules. A folder of src/ becomes one library; its *_test.cc become one test program.

find_package(GTest 1.12 CONFIG REQUIRED)
find_package(rapidcheck CONFIG REQUIRED)
include(GoogleTest)
enable_testing()

# Flags that every target shares. Defines that change Asio's and Beast's binary interface stand here and nowhere
# else: two translation units that differ in them crash.
add_library(virga_options INTERFACE)
target_compile_options(virga_options INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor
  $<$<BOOL:${VIRGA_WERROR}>:-Werror>)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  # g++ 12 reports these falsely in Asio's coroutines and in inlined std::string and std::variant.
  target_compile_options(virga_options INTERFACE -Wno-mismatched-new-delete -Wno-maybe-uninitialized
    -Wno-restrict -Wno-stringop-overflow -Wno-stringop-overread -Wno-array-bounds)
else()
  # A precompiled header that comes from the cache is older than the system's headers after their update.
  target_compile_options(virga_options INTERFACE "SHELL:-Xclang -fno-pch-timestamp")
endif()
target_compile_definitions(virga_options INTERFACE BOOST_ASIO_SEPARATE_COMPILATION
  BOOST_ASIO_NO_DEPRECATED BOOST_BEAST_SEPARATE_COMPILATION BOOST_ALL_DYN_LINK
  VIRGA_VERSION="${PROJECT_VERSION}")
target_include_directories(virga_options INTERFACE ${PROJECT_SOURCE_DIR}/src)
if(VIRGA_SANITIZE)
  target_compile_options(virga_options INTERFACE -fsanitize=${VIRGA_SANITIZE}
    -fno-omit-frame-pointer -fno-sanitize-recover=all)
  if(VIRGA_SANITIZE MATCHES thread)
    # Asio's fences are not seen by this sanitizer; its queues are guarded by mutexes besides.
    target_compile_options(virga_options INTERFACE -Wno-tsan)
  endif()
  target_link_options(virga_options INTERFACE -fsanitize=${VIRGA_SANITIZE})
endif()

# virga_library(NAME FOLDER [SOURCES file...] [DEPENDS target...])
# Without SOURCES: all .cc of the folder itself but *_test.cc, bench.cc and *main.cc.
function(virga_library name folder)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  if(NOT ARG_SOURCES)
    file(GLOB ARG_SOURCES CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/${folder}/*.cc)
    list(FILTER ARG_SOURCES EXCLUDE REGEX "(_test|bench|main)\\.cc$")
  else()
    list(TRANSFORM ARG_SOURCES PREPEND ${PROJECT_SOURCE_DIR}/src/${folder}/)
  endif()
  if(ARG_SOURCES)
    add_library(${name} STATIC ${ARG_SOURCES})
    target_link_libraries(${name} PUBLIC virga_options ${ARG_DEPENDS})
    if(NOT name STREQUAL virga_base AND TARGET virga_base)
      target_precompile_headers(${name} REUSE_FROM virga_base)
    endif()
  else()
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE virga_options ${ARG_DEPENDS})
  endif()
endfunction()

# What each test reads first, compiled once.
function(virga_test_headers)
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/test_headers.cc CONTENT "")
  add_library(virga_test_headers STATIC ${CMAKE_BINARY_DIR}/test_headers.cc)
  target_link_libraries(virga_test_headers PUBLIC virga_options Boost::headers Boost::json fmt::fmt
    spdlog::spdlog GTest::gtest_main)
  target_precompile_headers(virga_test_headers PRIVATE <algorithm> <chrono> <functional> <map>
    <memory> <optional> <set> <string> <thread> <vector> <boost/describe.hpp> <boost/json.hpp>
    <boost/mp11.hpp> <fmt/format.h> <gtest/gtest.h>)
endfunction()

# All test programs of a label.
add_custom_target(tests_unit)
add_custom_target(tests_real)

# virga_tests(NAME FOLDER [SOURCES file...] [DEPENDS target...] [LABEL unit|real] [TIMEOUT seconds])
# Without SOURCES: all *_test.cc of the folder.
function(virga_tests name folder)
  cmake_parse_arguments(ARG "" "LABEL;TIMEOUT" "SOURCES;DEPENDS" ${ARGN})
  if(NOT BUILD_TESTING)
    return()
  endif()
  if(NOT ARG_SOURCES)
    file(GLOB ARG_SOURCES CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${folder}/*_test.cc)
  else()
    list(TRANSFORM ARG_SOURCES PREPEND ${PROJECT_SOURCE_DIR}/${folder}/)
  endif()
  if(NOT ARG_SOURCES)
    return()
  endif()
  if(NOT ARG_LABEL)
    set(ARG_LABEL unit)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(NOT TARGET virga_test_headers)
    virga_test_headers()
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPENDS} GTest::gtest_main rapidcheck)
  target_precompile_headers(${name} REUSE_FROM virga_test_headers)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  set(alone OFF)  # real daemons and guests: one test at a time
  if(ARG_LABEL STREQUAL real)
    set(alone ON)
  endif()
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 300
    PROPERTIES LABELS ${ARG_LABEL} TIMEOUT ${ARG_TIMEOUT} RUN_SERIAL ${alone})
  add_dependencies(tests_${ARG_LABEL} ${name})
endfunction()

# All benchmark programs: no part of `all`, built by scripts/test so that they stay true, run by scripts/bench.
add_custom_target(benches)

# virga_bench(NAME SOURCES file... DEPENDS target...)
function(virga_bench name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${name} EXCLUDE_FROM_ALL ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPENDS})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  add_dependencies(benches ${name})
endfunction()

# virga_program(NAME SOURCE target...)
function(virga_program name source)
  add_executable(${name} ${PROJECT_SOURCE_DIR}/src/${source})
  target_link_libraries(${name} PRIVATE ${ARGN})
endfunction()
