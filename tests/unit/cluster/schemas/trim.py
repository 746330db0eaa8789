"""Makes the two schema files of this folder anew; see README.md for when and from what.

python trim.py CRD_FOLDER KUBERNETES_DEFINITIONS
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
CORE_KINDS = {
    "PersistentVolumeClaim": "io.k8s.api.core.v1.PersistentVolumeClaim",
    "NetworkPolicy": "io.k8s.api.networking.v1.NetworkPolicy",
    "ObjectMeta": "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
}
SHARED_FROM = 400  # characters: a smaller piece costs less where it stands than a name would


def closed(schema: Any) -> Any:
    """Keep what validates, and refuse every field that an object does not declare."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: {name: closed(each) for name, each in value.items()} if key == "properties" else closed(value)
        for key, value in schema.items()
        if key not in ("description", "format", "default") and not key.startswith("x-")
    }
    if "properties" in kept and not schema.get("x-kubernetes-preserve-unknown-fields"):
        kept.setdefault("additionalProperties", False)
    return kept


def shared(schemas: dict[str, Any]) -> dict[str, Any]:
    """Write every piece that occurs several times (pod templates, above all) once."""
    counts: Counter[str] = Counter()

    def count(node: Any) -> None:
        if isinstance(node, dict):
            counts[json.dumps(node, sort_keys=True)] += 1
        for each in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            count(each)

    count(schemas)
    names: dict[str, str] = {}
    pieces: dict[str, Any] = {}

    def inside(node: dict[str, Any]) -> dict[str, Any]:
        return {
            key: {name: replace(each) for name, each in value.items()} if key == "properties" else replace(value)
            for key, value in node.items()
        }

    def replace(node: Any) -> Any:
        if isinstance(node, list):
            return [replace(each) for each in node]
        if not isinstance(node, dict):
            return node
        text = json.dumps(node, sort_keys=True)
        if counts[text] == 1 or len(text) < SHARED_FROM:
            return inside(node)
        if text not in names:
            names[text] = str(len(names))
            pieces[names[text]] = inside(node)
        return {"$ref": f"#/$defs/{names[text]}"}

    return {**{kind: inside(schema) for kind, schema in schemas.items()}, "$defs": pieces}


def kuberay(folder: Path) -> dict[str, Any]:
    schemas = {}
    for path in sorted(folder.glob("ray.io_*.yaml")):
        definition = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]
        version = next(each for each in definition["versions"] if each["name"] == "v1")
        schema = version["schema"]["openAPIV3Schema"]
        schema["properties"].pop("status", None)  # written by the operator
        schemas[definition["names"]["kind"]] = closed(schema)
    return shared(schemas)


def kubernetes(definitions: dict[str, Any]) -> dict[str, Any]:
    needed: dict[str, Any] = {}

    def collect(name: str) -> None:
        if name not in needed:
            needed[name] = closed(definitions[name])
            for part in json.dumps(needed[name]).split("#/$defs/")[1:]:
                collect(part.split('"')[0])

    for name in CORE_KINDS.values():
        collect(name)
    return {**{kind: {"$ref": f"#/$defs/{name}"} for kind, name in CORE_KINDS.items()}, "$defs": needed}


if __name__ == "__main__":
    crds, definitions = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))["$defs"]
    for name, content in (("kuberay", kuberay(crds)), ("kubernetes", kubernetes(definitions))):
        (HERE / f"{name}.json").write_text(
            json.dumps(content, separators=(",", ":"), sort_keys=True) + "\n", encoding="utf-8"
        )
