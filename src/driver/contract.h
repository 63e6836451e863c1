#pragma once

#include <gtest/gtest.h>

/// How contract suites say what a call has to answer.

#define VIRGA_OK(result)                                   \
  do {                                                     \
    const auto& outcome_ = (result);                       \
    ASSERT_TRUE(outcome_.ok()) << outcome_.error().text(); \
  } while (false)

#define VIRGA_FAILS(result, errc)                                      \
  do {                                                                 \
    const auto outcome_ = (result);                                    \
    ASSERT_FALSE(outcome_.ok());                                       \
    EXPECT_EQ(outcome_.error().code, errc) << outcome_.error().text(); \
  } while (false)
