"""The site: pages from docs/*.md, the API reference from the docstrings, options from the commands themselves."""

import dataclasses
import importlib
import pkgutil
import re

from docutils import nodes
from math_core import LatexToMathML
from sphinx.util.docutils import SphinxDirective

import pyrobayes
from pyrobayes import __version__
from pyrobayes.options import declaration

project = "pyrobayes"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_click"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"pyrobayes {release}"
html_copy_source = False
html_show_copyright = False
html_scaled_image_link = False
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]

# Single backticks are code, in docstrings as in Markdown.
default_role = "literal"
autodoc_default_options = {"members": True}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_param = False  # several arguments of one description stay together
napoleon_custom_sections = [("Attributes", "params_style")]

# Names of other libraries can't be looked up without a network, and constants have no entry: both are left as text.
nitpick_ignore_regex = [
    ("py:data", ".*"),
    (
        "py:.*",
        r"(torch|nn|numpy|pyro|matplotlib|collections|contextlib|logging|pathlib|os|types)\..*|Tensor|Module|ModuleType|Path|Figure|tuple\[(float|str)",
    ),
]


def prepare_docstring(app, what, name, documented, options, lines):
    """Describe the fields of an options record, or of an attack, by the help texts that its command prints."""
    if what == "class" and dataclasses.is_dataclass(documented):
        names = [field.name for field in dataclasses.fields(documented) if field.init]
        helps = {name: help for name in names if (help := declaration(documented, name).get("help"))}
        while lines and not lines[-1]:
            lines.pop()
        heading = ["", "Args:"] if helps and "Args:" not in lines else []  # the last section of a docstring
        lines += [*heading, *(f"    {name}: {help}." for name, help in helps.items()), ""]
    if what in ("property", "attribute", "data"):
        lines.insert(0, "\\ ")  # or napoleon takes what stands before a colon for a type


def prepare_help(app, ctx, lines):
    """Leave out examples, with which a command's page begins, and mark options that a text mentions as code."""
    for i, line in enumerate(lines):
        if line.lstrip("| ").startswith(("Example:", "Examples:")):
            del lines[i:]
            break
        if not line.startswith(".. option::"):
            lines[i] = re.sub(r"(?<![\w`-])--[a-z][a-z-]*", r"``\g<0>``", line)


def find_documented(app, env, node, contnode):
    """Resolve a name that is documented under another path, as `pyrobayes.attacks.FGSM` is under its module's."""
    if node.get("refdomain") != "py":
        return None
    domain, last = env.get_domain("py"), node["reftarget"].split(".")[-1]
    found = sorted((name for name in domain.objects if name.split(".")[-1] == last), key=len)
    if not found or found[0] == node["reftarget"]:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], found[0], node, contnode)


def skip_member(app, what, name, member, skip, options):
    """Leave out of a module's page what the page of `pyrobayes` itself describes."""
    return True if what == "module" and getattr(pyrobayes, name, None) is member else skip


class Modules(SphinxDirective):
    """A section for each public module of the packages that are named, from their docstrings."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self):
        lines = []
        for name in self.arguments[0].split():
            module = importlib.import_module(name)
            lines += ["", f".. automodule:: {name}", "   :no-members:" if hasattr(module, "__path__") else "", ""]
            # The contract of a package, its module `base`, comes first.
            modules = pkgutil.iter_modules(getattr(module, "__path__", []))
            for found in sorted(modules, key=lambda found: (found.name != "base", found.name)):
                if not found.name.startswith("_") and not found.ispkg:
                    title = f"{name}.{found.name}"
                    lines += ["", title, "-" * len(title), "", f".. automodule:: {title}", ""]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


# Browsers render MathML themselves, so that formulas need no script and no network.
_MATH = LatexToMathML(annotation=False)


def visit_formula(translator, node):
    """Write a formula as MathML. A formula that can't be read ends the build with its text in the message."""
    display = isinstance(node, nodes.math_block)
    mathml = _MATH.convert_with_local_state(node.astext(), displaystyle=display)
    translator.body.append(f'<div class="formula">{mathml}</div>' if display else mathml)
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (visit_formula, None), (visit_formula, None))
    app.connect("autodoc-process-docstring", prepare_docstring, priority=400)  # before napoleon's
    app.connect("sphinx-click-process-description", prepare_help)
    app.connect("sphinx-click-process-options", prepare_help)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("missing-reference", find_documented)
    app.add_directive("modules", Modules)
