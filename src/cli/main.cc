#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <deque>

#include "base/log.h"
#include "cli/client.h"
#include "cli/command.h"

namespace {

using virga::cli::Argument;
using virga::cli::Command;
using virga::cli::Takes;

/// What CLI11 fills for one command.
struct Typed {
  const Command* command = nullptr;
  CLI::App* app = nullptr;
  std::map<std::string, std::vector<std::string>> texts;
  std::map<std::string, bool> flags;
};

std::string names_of(const Argument& argument) {
  if (argument.positional) return argument.name;
  if (argument.name == "output") return "-o,--output";
  if (argument.name == "file") return "-f,--file";
  return "--" + argument.name;
}

void add_argument(CLI::App& app, const Argument& argument, Typed& typed) {
  if (argument.takes == Takes::nothing) {
    app.add_flag(names_of(argument), typed.flags[argument.name], argument.help);
    return;
  }
  CLI::Option* added =
      app.add_option(names_of(argument), typed.texts[argument.name], argument.help);
  if (argument.takes == Takes::one) {
    added->expected(1);
  } else if (argument.positional) {
    added->expected(0, 1000);
  } else {
    added->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
        ->allow_extra_args(false);
  }
  if (argument.required) added->required();
}

void build(CLI::App& app, std::deque<Typed>& all, Typed& common) {
  app.require_subcommand(1);
  app.fallthrough();
  for (const Argument& argument : virga::cli::common_arguments())
    add_argument(app, argument, common);
  std::map<std::string, CLI::App*> nouns;
  for (const auto& [noun, help] : virga::cli::nouns()) {
    nouns[noun] = app.add_subcommand(noun, help);
    nouns[noun]->require_subcommand(1);
    nouns[noun]->fallthrough();
  }
  for (const Command& command : virga::cli::commands()) {
    CLI::App* parent = command.noun.empty() ? &app : nouns.at(command.noun);
    Typed& typed = all.emplace_back();
    typed.command = &command;
    typed.app = parent->add_subcommand(command.verb, command.help);
    typed.app->fallthrough();
    for (const Argument& argument : command.arguments) add_argument(*typed.app, argument, typed);
  }
}

void take(const Typed& typed, virga::cli::Invocation& invocation) {
  for (const auto& [name, values] : typed.texts) {
    if (!values.empty()) invocation.values[name] = values;
  }
  for (const auto& [name, set] : typed.flags) {
    if (set) invocation.values[name] = {};
  }
}

std::optional<virga::cli::Format> format_of(const std::string& name) {
  if (name.empty() || name == "table") return virga::cli::Format::table;
  if (name == "wide") return virga::cli::Format::wide;
  if (name == "json") return virga::cli::Format::json;
  if (name == "yaml") return virga::cli::Format::yaml;
  return std::nullopt;
}

int run(const Typed& typed, const Typed& common) {
  virga::cli::Invocation options;
  take(common, options);
  virga::cli::Invocation invocation;
  take(typed, invocation);
  const auto environment = [](const std::string& name) {
    const char* value = std::getenv(name.c_str());
    return value == nullptr ? std::string() : std::string(value);
  };
  const auto transport =
      virga::cli::http_transport(virga::cli::choose_server(options.text("server"), environment));
  const auto write_to = [](std::FILE* file) {
    return [file](const std::string& text) {
      std::fwrite(text.data(), 1, text.size(), file);
      std::fflush(file);
    };
  };
  virga::cli::Session session{*transport,          virga::cli::Format::table, false, false, false,
                              virga::seconds(120), write_to(stdout),          write_to(stderr)};
  const auto format = format_of(options.text("output"));
  if (!format) {
    session.err("virga: -o: \"" + options.text("output") +
                "\" is not one of table, wide, json, yaml\n");
    return 2;
  }
  session.format = *format;
  session.wait = options.has("wait");
  session.dry_run = options.has("dry-run");
  session.watch = options.has("watch");
  if (options.has("timeout")) {
    const long seconds = std::strtol(options.text("timeout").c_str(), nullptr, 10);
    if (seconds < 1 || seconds > 86'400) {
      session.err("virga: --timeout: \"" + options.text("timeout") +
                  "\" is not 1 to 86400 seconds\n");
      return 2;
    }
    session.deadline = virga::seconds(seconds);
  }
  return typed.command->run(session, invocation);
}

}  // namespace

int main(int argc, char** argv) {
  virga::set_log_level(virga::LogLevel::error);
  CLI::App app("virga: clouds of plain machines", "virga");
  std::deque<Typed> all;
  Typed common;
  build(app, all, common);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& wrong) {
    const int code = app.exit(wrong);
    return code == 0 ? 0 : 2;
  }
  for (const Typed& typed : all) {
    if (typed.app->parsed()) return run(typed, common);
  }
  return 2;
}
