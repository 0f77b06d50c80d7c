"""What the README shows can be run as it stands."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.documents import DOCUMENTS, ROOT, blocks

CHECK = """
transition = SinhArcsinh(2)
z = torch.randn(1, 1, 2).double()
context = 0.3 * torch.randn(1, 4).double()
move = lambda z: transition(State(z), context, None)
jacobian = torch.autograd.functional.jacobian(lambda z: move(z).state.z, z).reshape(2, 2)
torch.testing.assert_close(-jacobian.det().log(), move(z).log_ratio.squeeze())
assert "mine" in posteriors.names()
"""


def test_the_example_of_a_posterior_runs_as_it_stands():
    (example,) = (block.text for block in blocks(ROOT / "README.md") if block.mark == "file")
    subprocess.run([sys.executable, "-c", example + CHECK], cwd=ROOT, check=True)


def test_every_file_that_the_documents_link_to_is_there():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.relative_to(ROOT)}: {target}"
