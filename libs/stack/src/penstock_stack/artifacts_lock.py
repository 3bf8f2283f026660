"""Renew ``artifacts.lock``: resolve the pinned roots with jgo and write every file's digest.

Run by a maintainer after changing a version below: ``python -m penstock_stack.artifacts_lock``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from penstock_stack.artifacts import cache_dir, sha256_of

KAFKA = ("org.apache.kafka", "kafka_2.13", "4.2.2")
LOG_BINDING = ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.5")
"""Kafka logs through SLF4J 1.7; without a binding its log is empty."""
REGISTRY = ("io.apicurio", "apicurio-registry-app", "3.3.3")


def main() -> None:
    """Write ``artifacts.lock`` beside this module."""
    from jgo.maven import Dependency, MavenContext, PythonResolver

    context = MavenContext(
        resolver=PythonResolver(), repo_cache=cache_dir(os.environ) / "maven", timeout=60
    )
    lines = []
    kafka, binding = (
        context.project(g, a).at_version(v).artifact() for g, a, v in (KAFKA, LOG_BINDING)
    )
    # Kafka alone is resolved: the binding's own parent would dictate other versions of Kafka.
    _, nodes = context.resolver.get_dependency_list([Dependency(kafka)])
    g, a, v = REGISTRY
    registry = context.project(g, a).at_version(v).artifact("all", "tar.gz")
    jars = {kafka, binding, *(node.dep.artifact for node in nodes)}
    for group, artifacts in (("kafka", jars), ("registry", {registry})):
        for artifact in artifacts:
            coordinate = ":".join(
                (artifact.groupId, artifact.artifactId, artifact.version, artifact.classifier)
            )
            digest = sha256_of(Path(artifact.resolve()))
            lines.append(f"{group} {coordinate}:{artifact.packaging} {digest}")
    header = "# group coordinate sha256; written by python -m penstock_stack.artifacts_lock\n"
    target = Path(__file__).with_name("artifacts.lock")
    target.write_text(header + "\n".join(sorted(set(lines))) + "\n", "utf-8")
    sys.stderr.write(f"{len(set(lines))} artifacts in {target}\n")


if __name__ == "__main__":
    main()
