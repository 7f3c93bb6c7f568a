// What templates can call: filters, tests, and the methods of Python's str and dict.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja_value.h"

namespace opo::jinja {

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  // The values for `names` in order, undefined where not given. Fails on any other argument.
  std::vector<Value> Bind(std::string_view callee, std::initializer_list<const char*> names,
                          Meter& meter) const;
};

bool IsFilter(std::string_view name);
bool IsTest(std::string_view name);

// REQUIRES IsFilter(name), IsTest(name).
Value ApplyFilter(std::string_view name, const Value& value, const Arguments& arguments,
                  Meter& meter);
bool ApplyTest(std::string_view name, const Value& value, const Arguments& arguments, Meter& meter);

Value CallMethod(const Value& object, std::string_view name, const Arguments& arguments,
                 Meter& meter);

// object.name and object[key]; undefined where there is none, an error for an undefined object.
Value GetAttribute(const Value& object, const std::string& name, Meter& meter);
Value GetItem(const Value& object, const Value& key, Meter& meter);

// What a loop over the value sees. Fails where it has no elements.
std::vector<Value> Elements(const Value& value, Meter& meter);
bool Contains(const Value& container, const Value& item, Meter& meter);

}  // namespace opo::jinja
