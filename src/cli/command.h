#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/time.h"
#include "edge/http.h"

/// The command line as data: one table of commands from which parsing, help, completion and the reference are made.
namespace virga::cli {

/// How the server is reached. One implementation on sockets; tests bind the API itself.
class Transport {
 public:
  virtual ~Transport() = default;

  /// One request; `target` is path and query, percent-encoded. Errors: unavailable, timeout, as http_call.
  virtual Result<HttpResponse> call(const std::string& method, const std::string& target,
                                    const std::map<std::string, std::string>& headers,
                                    const std::string& body) = 0;

  /// A response that does not end; `keep_on` gets pieces as they come until it returns false.
  virtual Result<HttpResponse> stream(const std::string& target,
                                      std::function<bool(const std::string& piece)> keep_on) = 0;

  virtual void pause(Duration duration) = 0;
  virtual Instant now() = 0;
};

enum class Format { table, wide, json, yaml };

/// What all commands get.
struct Session {
  Transport& transport;
  Format format = Format::table;
  bool wait = false;
  bool dry_run = false;
  bool watch = false;
  Duration deadline = seconds(120);  ///< of --wait
  std::function<void(const std::string& text)> out;
  std::function<void(const std::string& text)> err;
};

/// What the user typed after the command.
struct Invocation {
  std::map<std::string, std::vector<std::string>> values;

  bool has(const std::string& name) const { return values.contains(name); }
  std::string text(const std::string& name, const std::string& fallback = "") const {
    const auto found = values.find(name);
    return found == values.end() || found->second.empty() ? fallback : found->second.front();
  }
  std::vector<std::string> all(const std::string& name) const {
    const auto found = values.find(name);
    return found == values.end() ? std::vector<std::string>{} : found->second;
  }
};

enum class Takes { nothing, one, many };

/// "--image NAME": `name` without dashes; a positional has `positional` set.
struct Argument {
  std::string name;
  std::string help;
  Takes takes = Takes::one;
  bool required = false;
  bool positional = false;
};

struct Command {
  std::string noun;  ///< "vm"; empty = the verb stands alone ("apply")
  std::string verb;
  std::string help;
  std::vector<Argument> arguments;
  int (*run)(Session& session, const Invocation& invocation);
};

/// All commands, in the order of the help.
const std::vector<Command>& commands();

/// One line for each noun.
const std::map<std::string, std::string>& nouns();

/// Options that every command has.
const std::vector<Argument>& common_arguments();

/// 0 ok, 2 usage or invalid, 3 not found, 4 conflict, 5 unavailable or timeout, 6 denied, 1 anything else.
int exit_code(Errc code);

/// Says the error and what to do next on `err`; returns the exit code.
int fail(Session& session, const Error& error);

/// A script for bash that completes nouns, verbs, options and names of resources.
std::string bash_completion();

/// The reference of all commands as Markdown.
std::string reference();

}  // namespace virga::cli
