"""The command `changenet`: one verb a module, and one place that turns errors into exit codes.

Verbs are imported when they run, so `changenet --help` stays quick.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from changenet import __version__
from changenet.errors import ChangeNetError


class Verbs(typer.core.TyperGroup):
    """Runs a verb: 0 done, 2 the user's input is wrong (one line a problem, no traceback), 1 anything else."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb and report what a user can mend on stderr."""
        from ray_jobs.console import err, set_up_logging

        set_up_logging()
        try:
            return super().invoke(ctx)
        except ChangeNetError as error:
            for problem in error.problems:
                err.print(f"error: {problem}", soft_wrap=True)
            raise typer.Exit(2) from None
        except OSError as error:  # a full disk, a folder that cannot be made or written
            if error.filename is None:
                raise
            err.print(f"error: {error.filename}: {error.strerror}. Choose another place, or make room.", soft_wrap=True)
            raise typer.Exit(2) from None
        except (KeyboardInterrupt, SystemExit):  # SIGINT; SIGTERM, which Ray turns into an exit
            resumes = ctx.invoked_subcommand in ("train", "tune")
            err.print(
                f"Interrupted. {'Run the same command again to go on from the last checkpoint.' if resumes else ''}"
            )
            raise typer.Exit(1) from None

    def list_commands(self, _ctx: Any) -> list[str]:
        """Keep the order in which a user meets the verbs."""
        return list(self.commands)


HELP = """Compare pictures of circuit-board components with their golden pictures: train, evaluate, export and serve
Visual ChangeNet on Ray. `changenet quickstart` shows the whole road in a few minutes."""

app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    epilog="Every verb with -e SPEC takes overrides: changenet train -e spec.yaml train.num_epochs=5 "
    "'dataset.classify.input_map={White: 0}'",
)

Spec = Annotated[str, typer.Option("-e", "--experiment-spec-file", help="Experiment spec (YAML, TAO's or ours).")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Overrides of the spec; values in YAML: train.gpu_ids=[0,1]."),
]
Address = Annotated[
    str | None,
    typer.Option(help="Ray cluster to run on, e.g. ray://head:10001 (default: RAY_ADDRESS, else a local Ray)."),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start anew; an earlier run is set aside, not deleted.")]


@app.command()
def quickstart(
    out: Annotated[str, typer.Option(help="Folder for everything it makes.")] = "quickstart",
    seed: Annotated[int, typer.Option(help="The same seed gives the same boards and the same result.")] = 0,
) -> None:
    """Show the whole road on generated boards: sample, check, train, evaluate, inference, export, quantize, serve."""
    from ray_jobs import quickstart as verb

    _finish(verb.run(out, seed=seed))


@app.command()
def sample(
    folder: Annotated[str, typer.Argument(help="Folder to write; new or empty.")],
    pairs: Annotated[int, typer.Option(min=40, help="Pairs in train, val, test and infer together.")] = 1000,
    lights: Annotated[int, typer.Option(min=1, max=4, help="Lights a picture.")] = 1,
    goldens: Annotated[int, typer.Option(min=1, max=16, help="Goldens a pair.")] = 1,
    size: Annotated[int, typer.Option(min=32, max=512, help="Square side of a light, in pixels.")] = 64,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 0,
) -> None:
    """Write a generated data set of board pictures with its spec."""
    from ray_jobs import sample as verb

    _finish(verb.run(folder, pairs=pairs, lights=lights, goldens=goldens, size=size, seed=seed))


@app.command()
def init(
    out: Annotated[str | None, typer.Option(help="File to write (default: stdout).")] = None,
    source: Annotated[str | None, typer.Option("--from", help="An old spec to bring into modern form.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier file.")] = False,
) -> None:
    """Write a commented default spec, or an old one in modern form."""
    from ray_jobs import init as verb

    _finish(verb.run(out=out, source=source, overwrite=overwrite))


@app.command()
def check(
    spec: Spec,
    overrides: Overrides = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the findings as JSON (nothing when the spec itself is wrong).")
    ] = False,
) -> None:
    """Check the spec and every row and picture of its data sets, before any training."""
    from ray_jobs import check as verb

    _finish(verb.run(spec, overrides or (), json_output=json))


@app.command()
def train(spec: Spec, overrides: Overrides = None, address: Address = None, fresh: Fresh = False) -> None:
    """Train a network with Ray Train; the same command again goes on where it stopped."""
    from ray_jobs import train as verb

    _finish(verb.run(spec, overrides or (), address=address, fresh=fresh))


@app.command()
def tune(
    spec: Spec,
    sweep: Annotated[str, typer.Option("-s", "--sweep", help="Sweep file: which keys are searched, and how.")],
    overrides: Overrides = None,
    address: Address = None,
    fresh: Fresh = False,
) -> None:
    """Search the best values of spec keys with Ray Tune; the same command again goes on where it stopped.

    The sweep file names any keys of model, dataset and train with where to
    search them; specs/sweep.yaml is a commented example. Everything in it is
    tried on the spec before Ray starts. Each trial is a training run of its own
    in RESULTS/tune/trials.

    Leaves RESULTS/tune/best.yaml, a spec that trains as it is, trials.csv and
    report.html.

    changenet tune -e spec.yaml -s specs/sweep.yaml train.num_epochs=12
    """
    from ray_jobs import tune as verb

    _finish(verb.run(spec, sweep, overrides or (), address=address, fresh=fresh))


@app.command()
def evaluate(spec: Spec, overrides: Overrides = None, address: Address = None) -> None:
    """Score the test set: metrics.json, evaluate.csv, report.html with plots."""
    from ray_jobs import evaluate as verb

    _finish(verb.run(spec, overrides or (), address=address))


@app.command()
def inference(spec: Spec, overrides: Overrides = None, address: Address = None) -> None:
    """Decide PASS or FAIL for every row of the infer set: inference.csv."""
    from ray_jobs import inference as verb

    _finish(verb.run(spec, overrides or (), address=address))


@app.command()
def export(
    spec: Spec,
    overrides: Overrides = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier model.onnx and bundle.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also a quantized network that decides otherwise too often.")
    ] = False,
) -> None:
    """Export a checkpoint to ONNX and to a bundle that serves, and check that both agree with it."""
    from ray_jobs import export as verb

    _finish(verb.run(spec, overrides or (), overwrite=overwrite, force=force))


@app.command()
def quantize(spec: Spec, overrides: Overrides = None) -> None:
    """Put layers of a trained network into 8 bits, and hold the result against it: comparison.json.

    quantize.layers says which layers: patterns for names or classes, later
    rules win, and nothing is quantized without one. Backend torchao takes
    weights for PyTorch, onnxruntime whole layers for the CPU; what it writes
    becomes a bundle with export.

    changenet quantize -e spec.yaml quantize.model_path=results/train/model_best.pth
    quantize.backend=onnxruntime 'quantize.layers=[{module_name: "*", weights: {dtype: int8}}]'
    """
    from ray_jobs import quantize as verb

    _finish(verb.run(spec, overrides or ()))


@app.command(name="gen_trt_engine")
def gen_trt_engine(
    spec: Spec,
    overrides: Overrides = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier engines.")] = False,
) -> None:
    """Build TensorRT engines of an export, for the GPU of this machine.

    From a bundle, engines of every graph go into the bundle, and one of the
    whole pair to gen_trt_engine.trt_engine, which DeepStream, Triton and
    trtexec read too. From an ONNX file alone, there is the latter only.

    With the package tensorrt-rtx, compute_capability builds for an RTX GPU
    that is elsewhere.

    changenet gen_trt_engine -e spec.yaml gen_trt_engine.onnx_file=results/export/bundle
    gen_trt_engine.tensorrt.data_type=fp16
    """
    from ray_jobs import gen_trt_engine as verb

    _finish(verb.run(spec, overrides or (), overwrite=overwrite))


@app.command()
def convert(
    source: Annotated[str, typer.Option("--from", help="A TAO checkpoint: .pth or .tlt, not encrypted by TAO.")],
    spec: Spec,
    target: Annotated[str, typer.Option("--to", help="The checkpoint to write.")],
    overrides: Overrides = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier file.")] = False,
) -> None:
    """Turn a TAO checkpoint into one that describes itself.

    TAO's files do not say what network their tensors belong to. The spec of
    the training says it: encoder, difference module, lights, sizes,
    eval_margin. With that spec every action reads TAO's file as it is; the
    converted file needs none, so changenet.load works on it alone.

    Nothing inside the file is run. Tensors that do not fit, and keys of the
    spec that contradict the one inside the file, are listed, and nothing is
    written.

    changenet convert --from model_epoch_029.pth -e tao.yaml --to pcb.pth
    """
    from ray_jobs import convert as verb

    _finish(verb.run(source, spec, target, overrides or (), overwrite=overwrite))


@app.command()
def models(
    pattern: Annotated[
        str | None, typer.Argument(help="Part of a name; timm/PART (or timm/PAT*TERN) searches timm's.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the encoders (model.backbone.type): size, pictures they take, licence of the weights, which to choose."""
    from ray_jobs import models as verb

    _finish(verb.run(pattern, json_output=json))


PassphraseVariable = Annotated[
    str | None,
    typer.Option("--key-env", metavar="NAME", help="Environment variable with the passphrase (default CHANGENET_KEY)."),
]
PassphraseFile = Annotated[
    str | None, typer.Option("--key-file", help="File with the passphrase, on one line.", show_default=False)
]
ModelFiles = Annotated[list[str], typer.Argument(metavar="FILE...", help="Checkpoints, ONNX files, bundle folders.")]
OutFolder = Annotated[str | None, typer.Option("--out", help="Folder to write to, under the same names.")]
InPlace = Annotated[bool, typer.Option("--overwrite", help="Replace files; without --out those that are read.")]


@app.command()
def seal(
    files: ModelFiles,
    key_env: PassphraseVariable = None,
    key_file: PassphraseFile = None,
    out: OutFolder = None,
    overwrite: InPlace = False,
) -> None:
    """Encrypt model files that were written in the clear: checkpoints, ONNX files, whole bundles.

    The result is what encryption_key in a spec writes and opens. A passphrase
    on a command line would stay in the shell's history, so it comes from an
    environment variable or a file. There is no way back without it.

    CHANGENET_KEY=... changenet seal --overwrite results/export/bundle
    """
    from ray_jobs import seal as verb

    _finish(verb.run(files, key_env=key_env, key_file=key_file, folder=out, overwrite=overwrite))


@app.command()
def unseal(
    files: ModelFiles,
    key_env: PassphraseVariable = None,
    key_file: PassphraseFile = None,
    out: OutFolder = None,
    overwrite: InPlace = False,
) -> None:
    """Write encrypted model files in the clear."""
    from ray_jobs import seal as verb

    _finish(verb.run(files, key_env=key_env, key_file=key_file, folder=out, overwrite=overwrite, encrypt=False))


@app.command()
def keys(path: Annotated[str, typer.Argument(metavar="FILE", help="Private key; FILE.pub is the public one.")]) -> None:
    """Make a pair of keys: bundles are signed with the private one, the public one says whether to trust them."""
    from ray_jobs import sign as verb

    _finish(verb.make_keys(path))


@app.command()
def sign(
    bundles: Annotated[list[str], typer.Argument(metavar="BUNDLE...", help="Bundle folders.")],
    key_file: Annotated[
        str, typer.Option("--key-file", help="Private key (PEM, Ed25519), as changenet keys makes it.")
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier signature.")] = False,
) -> None:
    """Sign bundles: changenet serve --trusted-key FILE.pub then serves no others.

    The signature, BUNDLE/manifest.sig, covers every file of the bundle. Sign
    last: seal, unseal and export --overwrite write other files, and drop it.
    """
    from ray_jobs import sign as verb

    _finish(verb.run(bundles, key_file=key_file, overwrite=overwrite))


@app.command("api-key")
def api_key(
    file: Annotated[str, typer.Argument(metavar="FILE", help="File of keys: serve.keys_file, changenet serve --keys.")],
    name: Annotated[str, typer.Argument(help="Whose key it is; shown in the log.")],
    admin: Annotated[bool, typer.Option("--admin", help="Also for what changes the service.")] = False,
) -> None:
    """Make an API key for the service and show it once; FILE gets its hash.

    A service reads FILE again when it changes: a new line lets somebody in, a
    line less locks somebody out, without a restart.

    changenet api-key keys.txt line-3
    """
    from ray_jobs import api_key as verb

    _finish(verb.run(file, name, admin=admin))


@app.command()
def serve(
    model: Annotated[list[str] | None, typer.Option(metavar="NAME=BUNDLE", help="A model to serve.")] = None,
    spec: Annotated[
        str | None, typer.Option("-e", "--experiment-spec-file", help="Experiment spec with a serve section.")
    ] = None,
    overrides: Overrides = None,
    host: Annotated[
        str | None, typer.Option(help="Interface to listen on (default 127.0.0.1; 0.0.0.0 = all).", show_default=False)
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port (default 8000).", show_default=False)] = None,
    address: Address = None,
    trusted_key: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Public key that must have signed the bundles; repeat it for several."),
    ] = None,
    keys: Annotated[
        str | None, typer.Option(metavar="FILE", help="API keys (changenet api-key): every request then needs one.")
    ] = None,
    tls_certificate: Annotated[str | None, typer.Option(metavar="FILE", help="Certificate (PEM) for HTTPS.")] = None,
    tls_key: Annotated[str | None, typer.Option(metavar="FILE", help="Private key (PEM) of the certificate.")] = None,
    out: Annotated[str | None, typer.Option(help="With build: file to write (default: stdout).")] = None,
) -> None:
    """Serve bundles over HTTP with Ray Serve; the inspection page is at /.

    changenet serve build writes the same service as a config file instead,
    for Ray's own command serve deploy and for a RayService.

    changenet serve build -e spec.yaml --out serve.yaml
    """
    given: dict[str, Any] = {
        "spec": spec,
        "models": model or (),
        "overrides": overrides or (),
        "host": host,
        "port": port,
        "trusted_keys": trusted_key or (),
        "keys_file": keys,
        "tls_certificate": tls_certificate,
        "tls_key": tls_key,
    }
    if overrides and overrides[0] == "build":
        from ray_jobs import serve_build

        _finish(serve_build.run(given | {"overrides": overrides[1:]}, out))
        return
    from ray_jobs import serve as verb

    _finish(verb.run(address=address, **given))


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback(help=HELP)
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Read what every verb understands."""


def _finish(code: int | None) -> None:
    if code:
        raise typer.Exit(code)
