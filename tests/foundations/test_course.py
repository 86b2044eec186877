"""What stands around the lessons: exercises, bridges to the model code, the glossary and the pages of the course."""

import ast
import functools
import io
import re
import sys

import pytest
from helpers.processes import PROJECT
from rich.console import Console

from scratch_gpt.cli.app import main
from scratch_gpt.foundations import LADDER, LESSONS, ladder
from scratch_gpt.foundations.bridges import BRIDGES, present_bridge
from scratch_gpt.foundations.exercises import load_exercises
from scratch_gpt.foundations.lesson import Presenter

COURSE = PROJECT / "docs" / "course"
SOURCE_LINK = re.compile(r"\]\(source:([^)#]+)#([^)]+)\)")
TERMS = """token; embedding; loss; head size; block size; epoch; vanishing gradient; batch; bias; weight; logits;
softmax; cross-entropy; perplexity; nat; learning rate; gradient descent; backpropagation; activation
function; relu; sigmoid; tanh; initialization; residual connection; layer norm; rmsnorm; dropout; attention;
query; key; value; causal mask; multi-head attention; feed-forward layer; position embedding; rotary
positions; encoder; decoder; cross-attention; sub-word; byte-pair encoding; vocabulary; context length;
overfitting; train/validation split; temperature; top-k; beam search; bleu; fine-tuning; lora; reward; ppo;
kl divergence; checkpoint; safetensors; one-hot; top-p; logit lens; residual stream; <bos>; entropy; variance;
dot product; matrix; seed; unigram"""


@functools.cache
def symbols(path):
    """Functions, classes, their members, and names assigned in a Python file."""
    found = set()

    def collect(body, prefix):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
                collect(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

    collect(ast.parse((PROJECT / path).read_text()).body, "")
    return found


def run_learn(monkeypatch, capsys, *arguments):
    """Run `scratch-gpt learn` here; return its exit code and what it printed."""
    monkeypatch.setattr("sys.argv", ["scratch-gpt", "learn", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    printed = capsys.readouterr()
    return stop.value.code, printed.out + printed.err


# --- exercises --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("lesson", LESSONS)
def test_every_lesson_has_exercises_on_paper_in_numbers_and_in_code(lesson):
    exercises = load_exercises(lesson)
    assert 3 <= len(exercises) <= 5
    assert all(each.title and each.question and each.solution for each in exercises)
    kinds = [each.title.partition(":")[0] for each in exercises]
    assert set(kinds) == {"On paper", "Change a number", "A few lines"}
    assert "assert" in "".join(each.solution for each in exercises)
    for each in exercises:
        assert "print(" in each.solution or "```" not in each.solution, each.title
        if not each.title.startswith("On paper"):
            assert each.question.endswith("```"), f"{each.title} has no code to start from"
            assert "print(" in each.question


SLOW_SOLUTIONS = ("activations", "leaf_or_flower", "text", "subwords", "dropout", "ladder")


@pytest.mark.parametrize("lesson", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW_SOLUTIONS)) for n in LESSONS])
def test_solutions_run(lesson):
    blocks = [
        block
        for each in load_exercises(lesson)
        for block in re.findall(r"```python\n(.*?)```", f"{each.question}\n{each.solution}", re.S)
    ]
    assert blocks
    assert max(len(line) for block in blocks for line in block.splitlines()) <= 76  # columns of a block in a terminal
    for block in blocks:
        exec(compile(block, f"a solution of {lesson}", "exec"), {"__name__": "solution"})


def test_exercises_are_printed_with_solutions_on_request(monkeypatch, capsys):
    code, printed = run_learn(monkeypatch, capsys, "neuron", "--exercises")
    assert code == 0
    titles = [each.title for each in load_exercises("neuron")]
    assert all(title in printed for title in titles)
    assert "\nSolution\n" not in printed
    assert "scratch-gpt learn neuron --solutions" in printed
    code, printed = run_learn(monkeypatch, capsys, "neuron", "--solutions")
    assert code == 0
    assert printed.count("\nSolution\n") == len(titles)
    texts = [text for each in load_exercises("neuron") for text in (each.question, each.solution)]
    blocks = [block for text in texts for block in re.findall(r"```python\n(.*?)```", text, re.S)]
    assert len(blocks) >= 3
    assert all(f"\n{block.rstrip()}\n" in printed for block in blocks)  # as it can be copied, without indentation


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--exercises",), "--exercises prints those of a lesson"),
        (("nosuch", "--exercises"), "unknown lesson 'nosuch'"),
        (("11",), "unknown lesson '11': choose one of 1 neuron, 2 autograd,"),
        (("neuron", "--exercises", "--save", "plots"), "--save can't be used with --exercises"),
        (("ladder", "--solutions", "--steps", "3"), "--steps can't be used with --solutions"),
        (("--seeds", "2"), "--seeds: only for the ladder"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, printed = run_learn(monkeypatch, capsys, *arguments)
    assert code == 2
    assert message in " ".join(printed.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["8", "attention", "Attention", "ATTENTION"])
def test_a_lesson_is_found_by_its_number_and_in_any_case(name, monkeypatch, capsys):
    code, printed = run_learn(monkeypatch, capsys, name, "--exercises")
    assert code == 0
    assert "scratch-gpt learn attention --solutions" in printed


def test_a_table_cuts_no_long_name():
    printed = io.StringIO()
    for lesson in LESSONS:
        present_bridge(Presenter(Console(file=printed, width=80)), lesson)
    names = [part for bridges in BRIDGES.values() for each in bridges for part in each.there.split("#")]
    assert all(name in printed.getvalue() for name in names)


# --- bridges and glossary ---------------------------------------------------------------------------------
def test_bridges_join_symbols_that_exist():
    assert list(BRIDGES) == list(LESSONS)
    for lesson, bridges in BRIDGES.items():
        module = "ladder_models" if lesson == LADDER else lesson
        here = symbols(f"scratch_gpt/foundations/{lesson}.py") | symbols(f"scratch_gpt/foundations/{module}.py")
        assert bridges
        for each in bridges:
            path, _, symbol = each.there.partition("#")
            assert each.here in here, each
            assert symbol in symbols(f"scratch_gpt/{path}"), each


def glossary() -> dict[str, str]:
    entries = r'^<a id="[\w-]+"></a>\*\*(.+?)\*\*: (.+)$'
    return dict(re.findall(entries, (COURSE / "glossary.md").read_text("utf-8"), re.M))


def shown_text(lesson):
    """What a reader sees of a lesson: the strings of its functions (without docstrings) and its exercises."""
    shown = [each for exercise in load_exercises(lesson) for each in exercise]
    for module in (lesson, *["ladder_models"] * (lesson == LADDER)):
        tree = ast.parse((PROJECT / "scratch_gpt" / "foundations" / f"{module}.py").read_text("utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        strings = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
        shown += [node.value for node in strings if id(node) not in docstrings]
    return " ".join(" ".join(shown).lower().split())


# The word of a lesson for a term that it explains under a similar name.
OTHER_WORDS = {
    "Block size": "context",
    "Context length": "context",
    "Exploding gradient": "explodes",
    "Gradient clipping": "clipping",
    "Head size": "d = c / h",
    "KV cache": "cache",
    "Sampling": "draw the next",
    "Sub-word": "subword",
    "Train/validation split": "validation",
    "Vanishing gradient": "vanishes",
    "Warm-up": "warmup",
}


def test_every_term_has_a_line_of_code_and_a_page_that_has_the_word():
    terms = glossary()
    assert len(terms) > 90
    assert list(terms) == sorted(terms, key=lambda term: term.strip("`<").lower())
    for term, text in terms.items():
        ((path, symbol),) = SOURCE_LINK.findall(text)
        assert symbol in symbols(path), term
        ((other_page, page),) = re.findall(r"(Not in the course: )?\[[^]`]+\]\(([\w./-]+)\.md\)", text)
        read = " ".join((COURSE / f"{page}.md").read_text("utf-8").lower().split()) if other_page else shown_text(page)
        words = [OTHER_WORDS.get(term, word).lower().strip(" `)") for word in re.split(r", | \(", term)]
        assert any(word in read or word.replace(" ", "-") in read for word in words), f"{page} has no {term!r}"


def test_the_glossary_has_the_terms_of_the_articles():
    explained = "; ".join(glossary()).lower().replace("(", "; ").replace(", ", "; ")
    missing = [term for term in TERMS.split(";") if " ".join(term.split()) not in explained]
    assert not missing


def test_the_index_lists_the_lessons_as_the_terminal_does():
    cells = r"^\| (\d+) \| \[(.+)\]\((\w+)\.md\)<br>`scratch-gpt learn (\w+)` \| (\d+) \| (.+) \|$"
    rows = re.findall(cells, (COURSE / "index.md").read_text(), re.M)
    expected = [
        (f"{i}", lesson.title, name, name, f"{lesson.minutes}", lesson.outcome)
        for i, (name, lesson) in enumerate(LESSONS.items(), 1)
    ]
    assert rows == expected


# --- pages ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def course():
    sys.path.insert(0, str(PROJECT / "docs" / "generate"))
    try:
        import course

        yield course
    finally:
        sys.path.pop(0)
        sys.modules.pop("course", None)


def test_markdown_is_escaped_outside_of_code(course):
    assert course.escape("w_1 <b> `a_b` 2*3 p(a | b)") == r"w\_1 &lt;b> `a_b` 2\*3 p(a \| b)"


def test_a_page_of_a_lesson_has_all_its_parts(course):
    """Of a lesson that takes a second; the build of the site makes all."""
    page = course._lesson_page("autograd")
    for part in ("# 2. Autograd", "## The question", "```text\n", "| number | value |", "??? note \"Solution\"\n\n    ",
                 "(images/autograd_graph.png)", "Previous: [A neuron](neuron.md)", "Next: [Activation"):  # fmt: skip
        assert part in page, part
    for path, symbol in SOURCE_LINK.findall(page):
        assert symbol in symbols(path)
    assert course._present("autograd").images["autograd_graph"].startswith(b"\x89PNG")


def test_the_page_of_the_ladder_explains_every_rung_without_a_run(course):
    page = course._lesson_page("ladder")
    for rung in ladder.RUNGS:
        assert re.search(rf"^- {re.escape(rung.name)}: .+ · \[`\w+`\]\(source:\S+ladder_models\.py#\w+\)$", page, re.M)
    for part in ("- From one head on, layer norm (", "- Without gain", "half their range", "1,200 steps"):
        assert part in page
    assert "Why is one head no better than the bigram?" in page
    assert "../images/ladder.png" in page
    assert re.search(r"^\| bigram \| \d\.\d+", page, re.M)


def test_the_results_name_the_rungs_without_gain_by_the_rule_of_the_lesson():
    """With the means and half ranges of the table; `find_without_gain` gets seeds that have them."""
    text = (PROJECT / "docs" / "results" / "ladder.md").read_text("utf-8")
    rows = re.findall(r"^\| ([^|]+) \| \**([\d.]+)\** \(([\d.]+)\) \|", text, re.M)
    assert len(rows) == len(ladder.RUNGS)
    results = {
        name: [
            ladder.Result(name, seed, float(mean) + sign * float(half), 1, 1.0) for seed, sign in enumerate((-1, 0, 1))
        ]
        for name, mean, half in rows
    }
    found = [
        re.fullmatch(r"(.+) is (worse|within).* \(([+-])([\d.]+),.+", each)
        for each in ladder.find_without_gain(results)
    ]
    (sentences,) = re.findall(r"^- Without gain.+?\n\n", text, re.M | re.S)
    worse, within = " ".join(sentences.split()).split("Within it are")
    for name, kind, sign, difference in (each.groups() for each in found):
        stated = f"{name} ({difference} {'higher' if sign == '+' else 'lower'}"
        assert stated in (worse if kind == "worse" else within), stated
    assert len(re.findall("higher|lower[,)]", worse + within)) == len(found) == 8


def test_the_page_of_bridges_links_every_lesson(course):
    page = course._bridge_page()
    assert all(f"]({name}.md)" in page for name in LESSONS)
    assert len(SOURCE_LINK.findall(page)) == 2 * sum(map(len, BRIDGES.values()))
