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
