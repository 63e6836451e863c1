#pragma once

#include <boost/json.hpp>
#include <string>
#include <vector>

#include "cli/command.h"

namespace virga::cli {

/// A column of a table: a title and where its text comes from: "status.power", or two joined by '/' as in
/// "meta.tenant+meta.name".
struct Column {
  std::string title;
  std::string path;
  bool wide_only = false;
};

/// Columns of a kind ("vms"); name alone for kinds without a table of their own.
const std::vector<Column>& columns_of(const std::string& plural);

/// The text at a dotted path; "-" when it is missing or empty.
std::string text_at(const boost::json::value& from, const std::string& path);

/// Rows padded to columns, with titles unless `titles` is false; control characters are replaced.
std::string table_text(const std::vector<Column>& columns,
                       const std::vector<boost::json::value>& rows, bool wide, bool titles = true);

/// Indented JSON and YAML 1.2, ending with a newline; YAML strings are quoted where they could be read as another type.
std::string pretty_json(const boost::json::value& from);
std::string yaml_text(const boost::json::value& from);

/// JSON or YAML is asked for: all that goes out is that, also of commands that have nothing but a word to say.
bool is_structured(const Session& session);

/// In a structured session: as a whole, or (`one_of_many`) as one line, or one document, of a stream.
void print_value(Session& session, const boost::json::value& value, bool one_of_many = false);

/// Resources in the session's format. `single`: one object instead of a list.
void print_resources(Session& session, const std::string& plural,
                     const std::vector<boost::json::value>& items, bool single);

}  // namespace virga::cli
