//! QEMU's own client of the protocol: the package `qemu.qmp` for Python, as it is on PyPI.

use crate::common::{Place, peers, run};
use crate::rig::{Server, holds, overlay};
use serde_json::json;
use std::process::Command;

/// Whether Python has the package. With `LVD_REQUIRE_PEERS=1` it must.
fn has_package() -> bool {
    if !peers(&["python3"]) {
        return false;
    }
    let found = Command::new("python3").args(["-c", "import qemu.qmp"]).output().is_ok_and(|run| run.status.success());
    let required = std::env::var("LVD_REQUIRE_PEERS").is_ok_and(|value| value == "1");
    assert!(found || !required, "Python has no package qemu.qmp, and LVD_REQUIRE_PEERS=1");
    if !found {
        eprintln!("skipped: a test, for want of Python's qemu.qmp");
    }
    found
}

const SCRIPT: &str = r#"
import asyncio, json, sys
from qemu.qmp import ExecuteError, QMPClient

async def main():
    client = QMPClient("lvd")
    with client.listener("JOB_STATUS_CHANGE") as states:
        await client.connect(sys.argv[1])
        assert client.greeting.QMP.capabilities == []
        try:
            await client.execute("block-stream", {"device": "no"})
            assert False
        except ExecuteError as error:
            assert error.error_class == "DeviceNotFound", error
        await client.execute("blockdev-snapshot-sync", {"device": "disk", "snapshot-file": "top.lvd", "format": "lvd"})
        await client.execute("block-stream", {"device": "disk", "job-id": "job0", "auto-dismiss": False})
        course = []
        while not course or course[-1] != "concluded":
            course.append((await states.get())["data"]["status"])
        jobs = await client.execute("query-jobs")
        await client.execute("job-dismiss", {"id": "job0"})
    print(json.dumps({"course": course, "jobs": jobs, "left": await client.execute("query-jobs")}))
    await client.disconnect()

asyncio.run(main())
"#;

/// Drives every command that there is, and says which those are.
const EVERY: &str = r#"
import asyncio, contextlib, sys
from qemu.qmp import ExecuteError, QMPClient

async def main():
    client = QMPClient("lvd")
    await client.connect(sys.argv[1])
    done = set()

    async def do(name, /, **arguments):
        done.add(name)
        return await client.execute(name, {key.replace("__", "-"): value for key, value in arguments.items()})

    async def until(job, status):
        while True:
            for info in await do("query-jobs"):
                if info["id"] == job and info["status"] == status:
                    return info
            await asyncio.sleep(0.01)

    async def gone(job):
        while any(info["device"] == job for info in await do("query-block-jobs")):
            await asyncio.sleep(0.01)

    assert (await do("query-version"))["package"]
    for name in ("a", "b"):
        await do("block-dirty-bitmap-add", node="disk", name=name)
    await do("block-dirty-bitmap-disable", node="disk", name="b")
    await do("block-dirty-bitmap-enable", node="disk", name="b")
    await do("block-dirty-bitmap-merge", node="disk", target="b", bitmaps=["a", {"node": "disk", "name": "a"}])
    bitmap = lambda verb, **data: {"type": "block-dirty-bitmap-" + verb, "data": {"node": "disk", **data}}
    merge = bitmap("merge", target="d", bitmaps=["a", {"node": "disk", "name": "b"}])
    await do("transaction", actions=[bitmap("add", name="d"), merge, bitmap("remove", name="d")])
    await do("block-dirty-bitmap-clear", node="disk", name="a")
    await do("block-dirty-bitmap-remove", node="disk", name="b")
    await do("block-set-copy-on-read", device="disk", enable=True)
    await do("block-stream", device="disk", job__id="s", speed=65536, auto__dismiss=False)
    await do("job-pause", id="s")
    await until("s", "paused")
    await do("job-resume", id="s")
    await do("block-job-set-speed", device="s", speed=0)
    await until("s", "concluded")
    await do("job-dismiss", id="s")

    mirror = {"device": "disk", "job__id": "m", "format": "lvd", "sync": "full"}
    await do("drive-mirror", target="m1.lvd", auto__finalize=False, auto__dismiss=False, **mirror)
    await until("m", "ready")
    await do("block-job-pause", device="m")
    await until("m", "standby")
    await do("block-job-resume", device="m")
    await until("m", "ready")
    await do("job-compare", id="m")
    while (info := (await do("query-block-jobs"))[0])["offset"] < info["len"]:
        await asyncio.sleep(0.01)
    await do("block-job-complete", device="m")
    await until("m", "pending")
    await do("block-job-finalize", id="m")
    await until("m", "concluded")
    await do("block-job-dismiss", id="m")
    for verb, key in (("job-cancel", "id"), ("block-job-cancel", "device")):
        await do("drive-mirror", target=verb + ".lvd", **mirror)
        await until("m", "ready")
        await do(verb, **{key: "m"})
        await gone("m")

    await do("drive-mirror", target="together.lvd", **mirror)
    await until("m", "ready")
    await do("job-complete-together", ids=["m"], group="group.lvg")
    await gone("m")

    await do("blockdev-snapshot-sync", device="disk", snapshot__file="over.lvd")
    add = {"type": "block-dirty-bitmap-add", "data": {"node": "disk", "name": "c"}}
    await do("transaction", actions=[add])
    await do("block-commit", device="disk", job__id="c")
    await until("c", "ready")
    await do("job-complete", id="c")
    await gone("c")

    await do("drive-backup", device="disk", job__id="p", target="scratch.raw", sync="none", bitmap="c", auto__finalize=False)
    await until("p", "ready")
    await do("block-export-add", type="nbd", id="e", node__name="p", bitmaps=["c"])
    assert [export["id"] for export in await do("query-block-exports")] == ["e"]
    await do("block-export-del", id="e")
    await do("job-complete", id="p")
    await until("p", "pending")
    await do("job-finalize", id="p")
    await gone("p")
    await do("block_resize", device="disk", size=32 << 20)
    assert (await do("query-block"))[0]["inserted"]["image"]["virtual-size"] == 32 << 20
    known = {command["name"] for command in await do("query-commands")}
    await do("quit")
    # The negotiation is the client's own.
    assert known - done == set(), known - done
    print(len(known))
    # The server may be gone first.
    with contextlib.suppress(Exception):
        await client.disconnect()

asyncio.run(main())
"#;

#[test]
fn qemu_qmp_drives_every_command() {
    if !has_package() {
        return;
    }
    let place = Place::new();
    overlay(&place);
    let mut server = Server::start(&place);
    let told = run(Command::new("python3").args(["-c", EVERY]).arg(&server.control)).ok().text();
    assert!(told.trim().parse::<u32>().is_ok_and(|count| count >= 35), "{told}");
    server.end().ok();
}

#[test]
fn qemu_qmp() {
    if !has_package() {
        return;
    }
    let place = Place::new();
    let model = overlay(&place);
    let server = Server::start(&place);
    let told = run(Command::new("python3").args(["-c", SCRIPT]).arg(&server.control)).ok().json();
    assert_eq!(told["course"], json!(["created", "running", "waiting", "pending", "concluded"]));
    assert_eq!((&told["jobs"][0]["status"], &told["left"]), (&json!("concluded"), &json!([])));
    server.stop().ok();
    std::fs::remove_file(place.path("base.lvd")).expect("removed");
    std::fs::remove_file(place.path("disk.lvd")).expect("removed");
    holds(&place, "top.lvd", &model);
}
