#!/usr/bin/env python3
"""Tests of the house's own checks: each rule finds what it should and lets the usual pass."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from house import allow, coverage, cpp, documents, layers, patterns, purity, scripts, sizes, tree  # noqa: E402


def made(path, text, executable=False):
    return tree.File(pathlib.Path("/nowhere"), path, text, executable)


def rules(check, *files):
    return sorted({finding.rule for finding in check(list(files))})


def function(body, head="int f()"):
    return f"{head} {{\n{body}\n}}\n"


class Parsing(unittest.TestCase):
    def names(self, code):
        return {f.name: f for f in cpp.functions(cpp.blank(code)[0]) if f.body >= 0}

    def test_F_B1_literals_and_comments_are_blank_and_lines_stay(self):
        text = 'a = "x{"; // {\nb = R"(\n{)"; c = \'{\'; n = 1\'000; /* {\n */ d();\n'
        code, comments = cpp.blank(text)
        self.assertEqual(len(code), len(text))
        self.assertNotIn("{", code)
        self.assertIn("1'000", code)
        self.assertEqual([line for line, _ in comments], [1, 3])

    def test_F_B1_functions_of_all_shapes_are_found(self):
        found = self.names("""
            namespace a { class Box : public Base<int> { public: Box(int x) : x_{x}, y_(2) { use(); }
            bool operator==(const Box& o) const { return true; } int x_{1}; std::vector<int> v = {1, 2}; }; }
            template <typename T> requires std::is_enum_v<T> auto name(T v) -> int { return 1; }
            const auto later = [](int a) { return a; }; enum class Kind { one, two };
            std::map<int, std::string> table{{1, "a"}}; TEST(Suite, a_name) { if (x) { y(); } }
            Result<std::pair<int, int>> Outer::Inner::run(const std::map<int, int>& m, int b = f(1, 2)) const {}
        """)
        self.assertEqual(set(found), {"Box", "operator==", "name", "TEST", "run", "lambda"})
        self.assertEqual(len(found["run"].parameters), 2)
        self.assertEqual(found["TEST"].depth, 1)

    def test_F_B1_a_macro_without_semicolon_is_no_function(self):
        found = self.names("BOOST_DESCRIBE_ENUM(A, b,\n c)\nstruct S { int f() { return 1; } };\n"
                           "TEST_F(S, works) { f(); }")
        self.assertEqual(set(found), {"f", "TEST_F"})

    def test_F_B1_else_if_does_not_nest_and_lists_do_not_count(self):
        found = self.names("void f() { if (a) { x({1, 2}); } else if (b) { } else { for (;;) { y = {3}; } } }")
        self.assertEqual(found["f"].depth, 2)


class Sizes(unittest.TestCase):
    def test_F_B1_limits(self):
        self.assertEqual(rules(sizes.check, made("src/a.cc", "int x;\n" * 801)), ["size.file"])
        self.assertEqual(rules(sizes.check, made("src/a.h", "int x;\n" * 251)), ["size.header"])
        self.assertEqual(rules(sizes.check, made("src/a.cc", function("g();\n" * 70))), ["size.function"])
        self.assertEqual(rules(sizes.check, made("src/a.cc", "//" + "x" * 99 + "\n")), ["size.columns"])
        self.assertEqual(rules(sizes.check, made("src/a.h", "/// " + "x" * 110 + "\n")), [])
        deep = "if (a) {" * 4 + "}" * 4
        self.assertEqual(rules(sizes.check, made("src/a.cc", function(deep))), ["size.nesting"])
        six = "void f(int a, int b, int c, int d, int e, std::map<int, int> g)"
        self.assertEqual(rules(sizes.check, made("src/a.cc", six + " {}\n")), ["size.parameters"])
        self.assertEqual(rules(sizes.check, made("src/a.h", six + ";\n")), ["size.parameters"])
        five = "void f(int a, std::map<int, int> b, int c, std::function<void(int, int)> d, int e);\n"
        self.assertEqual(rules(sizes.check, made("src/a.h", five)), [])


class Patterns(unittest.TestCase):
    def found(self, code, path="src/arch/room/planner.cc"):
        return rules(patterns.check, made(path, code))

    def test_F_B1_banned_code(self):
        for code, rule in (
                ("std::uniform_int_distribution<int> d;", "ban.random"),
                ("auto t = std::chrono::steady_clock::now();", "ban.clock"),
                ("std::this_thread::sleep_for(x);", "ban.sleep"),
                ("static Box& instance();", "ban.singleton"),
                ("try { f(); } catch (...) {}", "ban.catch_all"),
                ("void f() { GTEST" + "_SKIP(); }", "ban.skip"),
                ("int a;  // TO" + "DO later", "ban.todo"),
                ("// total += next(value);\n", "form.commented_code"),
                ("const char* p = \"/ho" + "me/user/x\";", "ban.machine_path"),
                ("int a;\n<<<<<<" + "< HEAD\n", "form.conflict"),
                ("run(\"pk" + "ill -f qemu\");", "ban.kill_by_name"),
                ("std::unordered_map<int, int> all_;\nvoid f() { for (auto& [k, v] : all_) g(); }",
                 "ban.unordered")):
            with self.subTest(code=code):
                self.assertEqual(self.found(code), [rule])

    def test_F_B1_allowed_code(self):
        for code in ("// The host returns; then it joins.\n", "// see f(x);  which waits\n",
                     "std::unordered_map<int, int> all_;\nvoid f() { all_.find(3); }",
                     "Instant now = loop.now();", "auto first = values.begin();",
                     "// steady_clock is not used here\n", 'log("sleep_for");'):
            with self.subTest(code=code):
                self.assertEqual(self.found(code), [])

    def test_F_B1_headers(self):
        header = "#pragma once\nusing namespace std;\n"
        self.assertEqual(self.found(header, "src/base/a.h"), ["ban.using_namespace"])
        self.assertEqual(self.found("int a;\n", "src/base/a.h"), ["form.pragma"])

    def test_F_B1_own_header_first(self):
        header = made("src/base/a.h", "#pragma once\n")
        wrong = made("src/base/a.cc", '#include <map>\n#include "base/a.h"\n')
        right = made("src/base/a.cc", '#include "base/a.h"\n#include <map>\n')
        self.assertEqual(rules(patterns.check, header, wrong), ["form.own_header"])
        self.assertEqual(rules(patterns.check, header, right), [])

    def test_F_B1_coroutine_rule(self):
        for body, rule in (("co_await f(Options{1});", "coroutine.brace"),
                           ("co_await f([&](int a) { return a; });", "coroutine.brace")):
            self.assertEqual(self.found(function(body, "Awaitable<int> g(int a)")), [rule])
        for parameter in ("const std::string& a", "std::string_view a"):
            code = function("co_return 1;", f"Awaitable<int> g({parameter})")
            self.assertEqual(self.found(code), ["coroutine.reference"])
        right = function("auto made = f(Options{1});\nco_await made;\nco_return table[0];",
                         "Awaitable<int> g(std::string a)")
        self.assertEqual(self.found(right), [])


class Layers(unittest.TestCase):
    TABLE = made("tools/layers.txt", "base:\nmodel: base\ndriver: base model\nruntime: base driver\n"
                 "arch: base model runtime driver\nedge: base\n<boost/asio -> edge\n")

    def found(self, path, text):
        return rules(layers.check, self.TABLE, made(path, text))

    def test_F_B1_lower_layers_do_not_know_higher_ones(self):
        self.assertEqual(self.found("src/base/a.cc", '#include "model/vm.h"\n'), ["layer"])
        self.assertEqual(self.found("src/model/a.cc", '#include "base/a.h"\n'), [])
        self.assertEqual(self.found("src/base/a_test.cc", '#include "model/vm.h"\n'), [])

    def test_F_B1_a_planner_sees_no_driver_and_no_runtime(self):
        for name in ("driver/hypervisor.h", "runtime/controller.h"):
            self.assertEqual(self.found("src/arch/room/planner.cc", f'#include "{name}"\n'), ["layer"])
            self.assertEqual(self.found("src/arch/room/controller.cc", f'#include "{name}"\n'), [])
        view = '#include "runtime/cluster_view.h"\n'
        self.assertEqual(self.found("src/arch/room/planner.cc", view), [])

    def test_F_B1_foreign_headers_stay_in_their_folder(self):
        self.assertEqual(self.found("src/model/a.cc", "#include <boost/asio.hpp>\n"), ["layer.foreign"])

    def test_F_B1_no_two_classes_of_a_namespace_have_one_name(self):
        first = made("src/base/a.h", "namespace virga {\nclass Box {\n};\nclass Later;\n}\n")
        again = made("src/model/a.h", "namespace virga {\nstruct Box : Base {\n};\n}\n")
        other = made("src/model/b.h", "namespace virga::sim {\nclass Box final {\n};\nclass Later;\n}\n")
        self.assertEqual(rules(layers.check, self.TABLE, first, again), ["names.twice"])
        self.assertEqual(rules(layers.check, self.TABLE, first, other), [])

    def test_F_B1_nobody_reaches_asio_through_a_header(self):
        inner = made("src/edge/io.h", "#include <boost/asio.hpp>\n")
        leaking = made("src/edge/http.h", '#include "edge/io.h"\n')
        user = made("src/base/a_test.cc", '#include "edge/http.h"\n')
        self.assertEqual(rules(layers.check, self.TABLE, inner, made("src/edge/http.h", ""), user), [])
        self.assertEqual(rules(layers.check, self.TABLE, inner, leaking, user), ["layer.asio"])

    def test_F_B1_headers_name_what_they_use(self):
        self.assertEqual(self.found("src/base/a.h", "std::optional<int> f();\n"), ["form.include"])
        self.assertEqual(self.found("src/base/a.h", "#include <optional>\nstd::optional<int> f();\n"), [])


class Documents(unittest.TestCase):
    def found(self, text, path="docs/a.md"):
        return rules(documents.check, made(path, text), made("src/base/a.h", "struct BigBox { void open(); };"))

    def test_F_B1_documents_speak_of_what_is_there(self):
        self.assertEqual(self.found("see `src/base/a.h` and `src/base/` and `src/<room>/x.h`"), [])
        self.assertEqual(self.found("see `src/base/b.h`"), ["docs.path"])
        self.assertEqual(self.found("[x](b.md)"), ["docs.link"])
        self.assertEqual(self.found("```\nscripts/none --fast\n```"), ["docs.command"])
        self.assertEqual(self.found("see `src/base/b.h` (pending)"), [])
        self.assertEqual(self.found("see `src/base/a.h` (pending)"), ["docs.pending"])
        self.assertEqual(self.found("```\nscripts/none   # (pending) the demo\n```"), [])
        named = "docs/life-of-a-vm.md"
        self.assertEqual(self.found("`BigBox` `BigBox::open` `open()` `state`", named), [])
        self.assertEqual(self.found("`BigBox::close`", named), ["docs.name"])


class Scripts(unittest.TestCase):
    def test_F_B1_scripts_are_whole(self):
        strict = "#!/usr/bin/env bash\nset -euo pipefail\n"
        self.assertEqual(rules(scripts.check, made("scripts/a", strict, True)), [])
        self.assertEqual(rules(scripts.check, made("scripts/a", strict, False)), ["script.mode"])
        self.assertEqual(rules(scripts.check, made("scripts/a", "#!/bin/bash\n", True)), ["script.strict"])
        self.assertEqual(rules(scripts.check, made("scripts/a", strict + "if\n", True)), ["script.syntax"])

    def test_F_B1_rooms_hold_the_same_files(self):
        self.assertEqual(rules(scripts.check, made("src/arch/room/planner.cc", "")), ["room.shape"])


class Allowing(unittest.TestCase):
    def test_F_B1_an_exception_has_a_reason_and_a_use(self):
        finding = tree.Finding("src/a.h", 1, "size.header", "348 lines; at most 250")

        def left(text):
            return [f.rule for f in allow.apply([made(allow.PATH, text)], [finding])]

        self.assertEqual(left("size.header src/a.h -- templates must be seen by their users\n"), [])
        self.assertEqual(left("size.header src/a.h\n"), ["size.header", "allow.form"])
        self.assertEqual(left("size.file src/b.h -- templates must be seen by their users\n"),
                         ["size.header", "allow.unused"])


class Coverage(unittest.TestCase):
    def test_F_B1_ids_are_read_from_all_kinds_of_tests(self):
        files = [made("src/a_test.cc", "TEST(A1_09_Heartbeat, F_B7_is_lost) {}\nTEST_F(X, A1_F3_A10_04_y) {}\n"
                      "RC_GTEST_PROP(P, a1_05_not_upper_case, (int a)) {}\n"),
                 made("tests/x_test.py", "    def test_F_F7_leash(self):\n"
                      '    def test_06_b(self):\n        """A1-05: as told; A1-09 is no head."""\n'),
                 made("scenarios/room/01-a.scn", "# proves A1-F4 F-F12\nhost a\n----\nA1-05\n")]
        named = coverage.named(files, {"A1-09", "A1-F3", "A10-04", "F-B7", "F-F7", "A1-F4", "F-F12", "A1-05"})
        self.assertEqual(named["A1-09"], ["`src/a_test.cc` A1_09_Heartbeat.F_B7_is_lost"])
        self.assertEqual(named["A1-05"], ["`tests/x_test.py` test_06_b"])
        self.assertEqual(set(named), {"A1-09", "A1-05", "A1-F3", "A10-04", "F-B7", "F-F7", "A1-F4", "F-F12"})

    def test_F_B1_a_failed_test_is_told_by_the_lines_that_say_why(self):
        def report(status, said):
            return f'<testsuite><testcase name="a" status="run"/><testcase name="b" status="{status}"><system-out>' \
                   f"{said}</system-out></testcase></testsuite>"
        tool = pathlib.Path(__file__).resolve().parent / "junit"
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "report.xml"

            def told(status, said):
                path.write_text(report(status, said), encoding="utf-8")
                return subprocess.run([tool, "--failed", path], capture_output=True, text=True, check=True).stdout
            noise = "much\n" * 50
            error = "AssertionError: 1 != 2\n"
            self.assertEqual(told("fail", noise + error + noise), "b (fail):\n  " + error)
            self.assertEqual(told("fail", "x_test.cc:12: Failure\n"), "b (fail):\n  x_test.cc:12: Failure\n")
            self.assertEqual(told("notrun", noise).count("much"), 12)
            self.assertEqual(told("run", noise), "\n")

    def test_F_B1_an_id_that_does_not_exist_is_an_error(self):
        with self.assertRaisesRegex(ValueError, "A1-99"):
            coverage.named([made("src/a_test.cc", "TEST(A1_99, x) {}\n")], {"A1-09"})


class Purity(unittest.TestCase):
    def test_F_B1_a_clock_a_file_a_lock_are_not_pure(self):
        banned = purity.read_table("clock  clock_gettime\nclock  std::chrono::_V2::*::now*\nfiles  fopen*\n")
        symbols = ["std::chrono::_V2::steady_clock::now()", "fopen64", "memcpy", "virga::free_capacity()"]
        self.assertEqual([kind for kind, _ in purity.impure(symbols, banned)], ["clock", "files"])


class Figures(unittest.TestCase):
    """scripts/bench, scripts/soak and tools/figures as they are, in a tree whose programs only print."""

    PROMISES = "cat_speed >= 4 MB\ndog_time_p95 <= 9 ms  # and why\nsim_10000_hosts_one_hour <= 900 s soak\n"
    # Commands that the scripts call: they note or say what the test asks for, and build nothing.
    COMMANDS = {"cmake": ":", "apt-get": "exit 1", "git": 'cat "$TREE/head"',
                "timeout": 'case $1 in --*) shift;; esac; echo "$*" >>"$TREE/limits"; shift; exec "$@"'}

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="virga")
        self.addCleanup(folder.cleanup)
        self.top = pathlib.Path(folder.name)
        real = pathlib.Path(__file__).resolve().parent.parent
        for path in ("scripts/bench", "scripts/soak", "scripts/common.sh", "tools/figures"):
            (self.top / path).parent.mkdir(exist_ok=True)
            shutil.copy(real / path, self.top / path)
        self.program("scripts/setup", ":")
        for name, body in self.COMMANDS.items():
            self.program("commands/" + name, body)
        (self.top / "tools/promises.txt").write_text(self.PROMISES)
        (self.top / "head").write_text("first\n")
        self.prints("cat_bench", "cat_speed 5.5 MB")
        self.prints("dog_bench", "dog_time_p95 8 ms", "dog_count 3 dogs")

    def program(self, path, body):
        path = self.top / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def prints(self, name, *lines):
        self.program("tests/bench/" + name, "\n".join(f"echo '{line}'" for line in lines))

    def run_script(self, *command):
        path = f"{self.top}/commands:{os.environ['PATH']}"
        run = subprocess.run([self.top / command[0], *command[1:]], capture_output=True, text=True, timeout=60,
                             env=os.environ | {"PATH": path, "TREE": str(self.top)})
        return run.returncode, run.stdout + run.stderr

    def record(self):
        return json.loads((self.top / "build/bench/figures.json").read_text())

    def test_F_B1_figures_belong_to_the_run_that_printed_them(self):
        code, said = self.run_script("scripts/bench")
        self.assertEqual(code, 0, said)
        self.assertEqual({f["name"]: f["value"] for f in self.record()["figures"]},
                         {"cat_speed": 5.5, "dog_time_p95": 8, "dog_count": 3})
        self.assertEqual(self.record()["commit"], "first")
        (self.top / "head").write_text("second\n")
        code, said = self.run_script("scripts/bench", "cat")
        self.assertEqual(code, 0, said)
        self.assertEqual((self.record()["commit"], [f["name"] for f in self.record()["figures"]]),
                         ("second", ["cat_speed"]))
        self.assertNotIn("dog_time_p95", said)

    def test_F_B1_the_commit_is_what_was_built_not_what_is_there_at_the_end(self):
        self.program("tests/bench/cat_bench", 'echo second >"$TREE/head"; echo cat_speed 5 MB')
        code, said = self.run_script("scripts/bench", "cat")
        self.assertEqual((code, self.record()["commit"]), (0, "first"), said)

    def test_F_B1_figures_of_google_benchmark_are_those_of_this_run(self):
        row = '{"benchmarks": [{"name": "Run", "real_time": 1.5, "time_unit": "ns"}]}'
        self.program("tests/bench/bird_bench", f"echo '{row}' >\"${{1#--benchmark_out=}}\"")
        self.run_script("scripts/bench", "bird")
        self.assertEqual([f["name"] for f in self.record()["figures"]], ["bird_bench:Run"])
        self.prints("bird_bench", "no figure; benchmark_out")
        self.assertEqual(self.run_script("scripts/bench", "bird")[0], 1)
        self.assertEqual(self.record()["figures"], [])

    def test_F_B1_a_broken_promise_fails(self):
        self.prints("dog_bench", "dog_time_p95 9.5 ms")
        code, said = self.run_script("scripts/bench", "dog")
        self.assertEqual(code, 1, said)
        self.assertRegex(said, "dog_time_p95 .* NOT KEPT")

    def test_F_B1_a_run_of_all_answers_every_promise_but_those_of_soak(self):
        for line in ("dog_time_p99 8 ms", "dog_time_p95 8 s", "dog_time_p95 nan ms"):
            self.prints("dog_bench", line, "dog_count 3 dogs")
            code, said = self.run_script("scripts/bench")
            self.assertEqual(code, 1, said)
            self.assertRegex(said, "dog_time_p95 +NOT ANSWERED")
            self.assertNotIn("sim_10000", said)
            code, said = self.run_script("scripts/bench", "dog")
            self.assertEqual(code, 0, said)

    def test_F_B1_what_a_program_says_it_did_not_measure_is_no_failure(self):
        self.prints("dog_bench", "dog_time_p95 not measured: no dog")
        code, said = self.run_script("scripts/bench")
        self.assertEqual(code, 0, said)
        self.assertRegex(said, "dog_time_p95 +not measured +no dog")
        self.assertEqual(self.record()["not_measured"], {"dog_time_p95": "no dog"})

    def test_F_B1_promises_are_well_formed(self):
        tools = pathlib.Path(__file__).resolve().parent
        log = self.top / "x.log"
        log.write_text("cat_speed 5 MB\n")
        run = subprocess.run([tools / "figures", log], capture_output=True, text=True, check=False)
        self.assertEqual(run.returncode, 0, run.stderr)
        for line in ("cat_speed 4 MB", "cat_speed => 4 MB", "cat_speed >= 4 MB soap", "cat_speed >= 4"):
            (self.top / "tools/promises.txt").write_text("\n" + line + "\n")
            code, said = self.run_script("tools/figures", log)
            self.assertEqual(code, 1, said)
            self.assertIn("promises.txt:2: '" + line, said)

    def soak_sim(self, *lines):
        """The exit code of scripts/soak sim whose program prints these lines, and what it noted last."""
        self.prints("sim_bench", *lines)
        code, said = self.run_script("scripts/soak", "sim")
        return code, (self.top / "build/soak/results.tsv").read_text().strip().split("\n")[-1].split("\t"), said

    def test_F_B1_the_long_simulation_has_forty_minutes(self):
        self.assertEqual(self.soak_sim("sim_10000_hosts_one_hour 800.0 s")[0], 0)
        limits = [line.split() for line in (self.top / "limits").read_text().split("\n")]
        limit = [int(words[0]) for words in limits if words[1:2] == ["tests/bench/sim_bench"]]
        self.assertEqual(len(limit), 1)
        self.assertTrue(2300 < limit[0] <= 2400, limit)

    def test_F_B1_the_long_simulation_is_compared_with_its_promise(self):
        code, noted, said = self.soak_sim("sim_10000_hosts_one_hour 899.0 s", "load average 1.0")
        self.assertEqual((code, noted[1:3], noted[4]), (0, ["first", "sim"], "ok"), said)
        code, noted, said = self.soak_sim("sim_10000_hosts_one_hour 1203.4 s", "load average 1.0")
        self.assertEqual(code, 1, said)
        self.assertIn("sim_10000_hosts_one_hour 1203.4 s", noted[3])
        self.assertEqual(noted[4], "missed: 1 figures, 1 promises not kept, 0 not answered")
        code, noted, said = self.soak_sim("sim_9999_hosts_one_hour 1.0 s")
        self.assertEqual((code, noted[4]), (1, "missed: 1 figures, 0 promises not kept, 1 not answered"), said)


if __name__ == "__main__":
    unittest.main()
