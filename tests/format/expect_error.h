// The one way in which a bad file may fail: Error(kInput) with a message that names the culprit.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>

#include "base/error.h"

namespace opo {

template <class Function>
void ExpectError(ErrorCode code, const Function& function,
                 std::initializer_list<std::string> parts) {
  try {
    function();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    for (const std::string& part : parts) {
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos)
          << "'" << part << "' is not in: " << e.what();
    }
    return;
  }
  ADD_FAILURE() << "no error; expected one with '"
                << (parts.size() > 0 ? *parts.begin() : std::string()) << "'";
}

template <class Function>
void ExpectInputError(const Function& function, std::initializer_list<std::string> parts) {
  ExpectError(ErrorCode::kInput, function, parts);
}

}  // namespace opo
