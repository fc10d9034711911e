"""Pages that are written nowhere twice: the guide is the README, the API its docstrings."""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
EXPERIMENTS = "experiments/results/index.html"  # a page of its own, with all its pictures in it

PROBLEMS = (
    *("Problem", "GaussianProblem", "FamilyProblem", "Family", "ReducedForm"),
    *("AbstractProblem", "AbstractFiniteProblem"),
)

# Where public names are looked up, in the order of the site: title, module, names (None: all).
GROUPS = (
    ("Problems", "bnjax", PROBLEMS),
    (
        "Equilibria",
        "bnjax",
        (
            *("equilibria", "rationalizable", "phase", "certify", "phase_diagram"),
            *("smooth_equilibrium", "smooth_path", "Equilibria", "Rationalizable", "Certificate"),
            *(
                "Witness",
                "Exclusion",
                "SmoothEquilibrium",
                "SmoothPath",
                "Phase",
                "Certainty",
                "Stability",
            ),
            "SolveStatus",
        ),
    ),
    (
        "Learning",
        "bnjax",
        (
            *("simulate", "mean_field", "basins", "best_fit_dynamics", "Agent", "AgentState"),
            *("Simulation", "Outcome", "Share", "Trajectory", "Snapshot", "Running", "Step"),
            *("MeanField", "Motion", "Basins", "BestFitDynamics", "Observation"),
            *("BestResponse", "EpsilonGreedy", "Logit", "ThompsonSampling", "AbstractPolicy"),
            *("PerfectMemory", "DiscountedMemory", "WindowMemory", "AbstractMemory"),
        ),
    ),
    ("Design", "bnjax.design", None),
    ("Sweeps", "bnjax.sweeps", None),
    ("Scenarios", "bnjax.scenarios", None),
    ("Figures", "bnjax.plot", None),
)

# Of a package, what it says of itself; its names follow one by one.
_HEAD = "{members: false, show_root_heading: false, show_root_toc_entry: false}"


def on_config(config):
    """List the pages of the API, and see that nothing public is missing from it."""
    listed = {name for _, module, names in GROUPS for name in names or _public(module)}
    missing = _public("bnjax") - listed - {"design", "plot", "scenarios", "sweeps"}
    if missing:
        raise ValueError(f"not in the API pages: {', '.join(sorted(missing))}")
    pages = [{title: f"api/{title.lower()}.md"} for title, _, _ in GROUPS]
    config.nav[-1]["API"] += pages
    return config


def on_files(files, config):
    """Add the guide, its pictures, and a page for each part of the API."""
    guide = (ROOT / "README.md").read_text()
    # Scripts lie in the repository and cannot be followed from here; what they found can.
    scripts = r"\]\(experiments/(\w+)\.py\)"
    guide = re.sub(scripts, rf"]({EXPERIMENTS}#\1)", guide)
    guide = guide.replace(f"`{EXPERIMENTS}`", f"[`{EXPERIMENTS}`]({EXPERIMENTS})")
    files.append(File.generated(config, "index.md", content=guide))
    files.append(File.generated(config, EXPERIMENTS, abs_src_path=str(ROOT / EXPERIMENTS)))
    for picture in sorted(set(re.findall(r"\]\(([^)]*\.png)\)", guide))):
        files.append(File.generated(config, picture, abs_src_path=str(ROOT / picture)))
    for title, module, names in GROUPS:
        lines = [
            f"# {title}\n",
            *([] if names else [f"::: {module}\n    options: {_HEAD}\n"]),
            *(f"::: {module}.{name}\n" for name in names or sorted(_public(module))),
        ]
        path = f"api/{title.lower()}.md"
        files.append(File.generated(config, path, content="\n".join(lines)))
    return files


def on_page_content(html, page, config, files):
    """Leave no dash after what has no description."""
    return re.sub(r"\u2013\s*<div class=\"doc-md-description\">\s*</div>", "", html)


def _public(module):
    """Names that a subpackage makes public, by the convention of its `import x as x`."""
    source = (ROOT / module.replace(".", "/") / "__init__.py").read_text()
    names = set(re.findall(r"import (\w+) as \1$", source, re.MULTILINE))
    return {name for name in names if not name.isupper()}
