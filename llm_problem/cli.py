"""`llm-problem list | show | run | compare | report | export | doctor`: where problems and optimizers meet.

Exit codes: 0 done, 1 the run failed, 2 bad input, 3 the time limit came first, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from typing import NoReturn

import llm_problem as lp
from llm_problem.cli_studies import compare_command, print_problems, report_command
from llm_problem.harmless import printable
from llm_problem.study.stopping import CODES, stopping


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    options = _parser().parse_args(_id_first(sys.argv[1:] if arguments is None else arguments))
    with stopping() as stopped:
        options.stopped = stopped
        code = _guarded(options)
    return stopped.code if code == 130 and stopped.code is not None else code


def entry() -> NoReturn:
    """The command as a program: after a signal it ends at once, and waits for no thread or library."""
    code = main()
    if code in CODES.values():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _guarded(options: argparse.Namespace) -> int:
    """The command's exit code; what goes wrong is said in one line."""
    try:
        return options.command(options)
    except (ValueError, TypeError, FileExistsError, ImportError) as error:
        print(f"llm-problem: {printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("llm-problem: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `llm-problem list | head`
        sys.stderr.close()
        return 0
    # No network for a first fetch, a folder that cannot be written, a model that does not fit.
    except (RuntimeError, OSError, MemoryError) as error:
        print(f"llm-problem: {printable(str(error)) or 'out of memory'}", file=sys.stderr)
        return 1


def _id_first(arguments: Sequence[str]) -> list[str]:
    """`run --optimizer A B ID …` as `run ID --optimizer A B …`: --optimizer takes every word behind it."""
    words = list(arguments)
    if words[:1] == ["run"]:
        problems, among_optimizers = set(lp.list_problems()), False
        for place, word in enumerate(words):
            if word.startswith("-"):
                among_optimizers = len(word) > 2 and "--optimizer".startswith(word)
            elif among_optimizers and word.partition("@")[0] in problems:
                return ["run", words.pop(place), *words[1:]]
    return words


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if message.endswith("required: ID"):
            message += " (the problem's id, before --optimizer, which takes every name behind it)"
        super().error(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="llm-problem", description="The loss of a language model as a black-box problem.")
    parser.add_argument("--version", action="version", version=f"llm-problem {lp.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    command = commands.add_parser("list", help="the named problems, or the optimizers")
    command.add_argument("pattern", nargs="?", default="*", help="with * and ?, such as 'tiny*'")
    command.add_argument("--optimizers", action="store_true", help="list optimizers instead of problems")
    command.add_argument("--suite", metavar="NAME", help="only the problems of that suite, instances too: tiny or real")
    command.add_argument("--long", action="store_true", help="as a table, with what was measured of each problem")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(command=_list)

    command = commands.add_parser("show", help="what a named problem is")
    command.add_argument("id")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(command=_show)

    command = commands.add_parser("run", help="run optimizers on a named problem")
    command.add_argument("id", metavar="ID")
    command.add_argument(
        "--optimizer",
        nargs="+",
        action="extend",
        required=True,
        metavar="NAME",
        help="see list --optimizers",
    )
    command.add_argument("--budget", type=int, required=True, metavar="N", help="evaluations for each optimizer")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="of the optimizers (default 0)")
    command.add_argument(
        "--start-at-x0",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether the pretrained model is evaluation one (default: yes)",
    )
    command.add_argument("--out", metavar="DIR", help="new folder for the results (default: in runs/)")
    command.add_argument("--resume", action="store_true", help="go on with the run in --out, or begin it there")
    command.add_argument("--seconds", type=float, metavar="S", help="evaluate nothing more after so long; see --resume")
    command.add_argument("--evaluation-seconds", type=float, metavar="S", help="give up one evaluation after so long")
    command.add_argument("--memory", type=float, metavar="GB", help="give up an evaluation whose process takes more")
    command.add_argument("--workers", type=int, metavar="K", help="processes that evaluate each generation together")
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.set_defaults(command=_run)

    command = commands.add_parser("compare", help="run what a study file asks for, or go on with it")
    command.add_argument("study", metavar="STUDY.toml")
    command.add_argument("--out", metavar="DIR", help="the study's folder, new or begun (default: runs/NAME)")
    command.add_argument(
        "--workers", type=int, default=1, metavar="K", help="processes that share the runs (default 1)"
    )
    command.add_argument("--fail-fast", action="store_true", help="end with the first run that fails")
    command.set_defaults(command=_compare)

    command = commands.add_parser("report", help="a page, figures and files of a study, finished or not")
    command.add_argument("folder", metavar="DIR", help="the folder that compare wrote")
    command.set_defaults(command=report_command)

    command = commands.add_parser("export", help="a point that a run has found, as a PEFT adapter or a whole model")
    command.add_argument("run", metavar="RUN", help="the folder that run wrote")
    command.add_argument("--optimizer", metavar="NAME", help="whose point (default: that with the lowest dev loss)")
    command.add_argument("--out", metavar="DIR", help="new folder (default: one in RUN)")
    command.add_argument("--merged", action="store_true", help="a whole model instead of an adapter")
    command.add_argument(
        "--point", choices=("recommended", "best"), default="recommended", help="(default recommended)"
    )
    command.set_defaults(command=_export)
    command = commands.add_parser("doctor", help="what this installation is, and a short self-check")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(command=_doctor)
    return parser


def _list(options: argparse.Namespace) -> int:
    marks: dict[str, str] = {}
    if options.optimizers:
        from llm_problem_adapters import list_optimizers, replays, takes_gradients

        names = list_optimizers(options.pattern)
        marks = {name: " (given gradients: a reference)" for name in names if takes_gradients(name)}
        marks |= {name: " (cannot be resumed)" for name in names if not replays(name)}
    elif options.suite is not None:
        names = lp.suites.get(options.suite).select(options.pattern).names
    else:
        names = lp.list_problems(options.pattern)
    if names and options.long and not options.optimizers:
        print_problems(names)
        return 0
    if names or options.json:
        print(json.dumps(names, indent=2) if options.json else "\n".join(name + marks.get(name, "") for name in names))
    if not names:
        print(f"llm-problem: nothing matches {options.pattern!r}", file=sys.stderr)
        return 2
    return 0


def _compare(options: argparse.Namespace) -> int:
    from llm_problem_adapters.study import compare

    return compare_command(options, compare)


def _show(options: argparse.Namespace) -> int:
    from llm_problem.study.report import print_card
    from llm_problem.suites.page import readable

    problem = lp.make(options.id)
    card, measured = problem.card(), lp.suites.card(problem.name)
    rest = {} if measured is None else {key: value for key, value in measured.items() if key not in card}
    if options.json:
        print(json.dumps({**card, "measured": rest} if rest else card, indent=2))
    else:
        print_card({**card, **(readable(rest) if rest else {})})
    return 0


def _run(options: argparse.Namespace) -> int:
    from llm_problem.study.report import print_outcome
    from llm_problem.study.runner import new_run_folder, run_optimizers
    from llm_problem_adapters import minimize
    from llm_problem_adapters.registry import configure
    from llm_problem_adapters.replaying import replays, require_replay

    lp.get_spec(options.id)
    if options.budget < 1:
        raise ValueError(f"--budget must be at least 1, got {options.budget}")
    if options.workers is not None and options.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {options.workers}")
    if options.seed < 0:
        raise ValueError(f"--seed must be a non-negative integer, got {options.seed}")
    if len(set(options.optimizer)) != len(options.optimizer):
        raise ValueError(f"an optimizer is named twice: {' '.join(options.optimizer)}")
    for name in options.optimizer:
        configure(name)  # a misspelt name is refused before anything is loaded or written
    if options.resume and options.out is None:
        raise ValueError("--resume needs the run's folder: --out DIR")
    for name in options.optimizer if options.resume else ():
        require_replay(name)
    limits = {name: getattr(options, name) for name in ("seconds", "evaluation_seconds", "memory")}
    for name, value in limits.items():
        if value is not None and not value > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be positive, got {value}")
    out = options.out or str(new_run_folder(options.id))
    words = ["llm-problem", "run", options.id, "--optimizer", *options.optimizer, "--budget", str(options.budget)]
    words += ["--seed", str(options.seed), "--out", out, "--resume"]
    words += [] if options.start_at_x0 else ["--no-start-at-x0"]
    for name in ("evaluation_seconds", "memory"):
        words += [] if limits[name] is None else [f"--{name.replace('_', '-')}", f"{limits[name]:g}"]
    words += [] if options.workers is None else ["--workers", str(options.workers)]
    fixed = [name for name in options.optimizer if not replays(name)]
    again = f"there is no going on with {', '.join(fixed)}, which does not repeat; its record is in {out}"
    go_on = options.stopped.advice = printable(again if fixed else f"to go on: {shlex.join(words)}")
    settings = {"budget": options.budget, "seed": options.seed, "start_at_x0": options.start_at_x0}
    settings["workers"] = options.workers
    try:
        outcome = run_optimizers(
            options.id, options.optimizer, minimize, out=out, resume=options.resume, **settings, **limits
        )
    except KeyboardInterrupt:
        print(go_on, file=sys.stderr)
        raise
    if outcome.exit_code:
        print(go_on, file=sys.stderr)
    if options.json:
        print(json.dumps(outcome.to_dict(), indent=2))
    else:
        print_outcome(outcome)
    return outcome.exit_code


def _doctor(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from llm_problem.doctor import checks, facts
    from llm_problem.study.report import print_card

    known, found = facts(), list(checks())
    if options.json:
        print(json.dumps({**known, "checks": [asdict(check) for check in found]}, indent=2))
    else:
        print_card(known)
        for check in found:
            print(f"{'ok    ' if check.holds else 'FAILED'} {check.name}: {check.found}")
    return int(not all(check.holds for check in found))


def _export(options: argparse.Namespace) -> int:
    from llm_problem.export.run_folder import export_run

    done = export_run(
        options.run, optimizer=options.optimizer, out=options.out, merged=options.merged, point=options.point
    )
    print(f"optimizer: {done.optimizer} ({done.why})\npoint: {done.point}\n{done.what}: {done.path}")
    return 0


if __name__ == "__main__":
    entry()
