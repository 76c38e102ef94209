//! Exports that commands add: a device once more, or what a disk was at the instant at which a job began.

use super::commands::{Answer, Command, done};
use super::server::Server;
use super::wire::Failure;
use crate::live::Disk;
use crate::nbd::server::{Export, ExportDevice};
use crate::sync::{Arc, lock};
use serde::Deserialize;
use serde_json::json;

/// An export that a command has added.
#[derive(Debug)]
pub(super) struct Added {
    /// Of a device, or of a job.
    node: String,
    export: String,
    /// It is the point in time of that job.
    point: bool,
}

/// What is offered: a device whole, or a point in time.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Nbd,
}

/// Offers a device, or the point in time of a job of that name, to NBD clients.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ExportAdd {
    #[serde(rename = "type")]
    _kind: Kind,
    id: String,
    node_name: String,
    name: Option<String>,
    description: Option<String>,
    #[serde(default)]
    writable: bool,
    #[serde(default)]
    bitmaps: Vec<String>,
}

impl Command for ExportAdd {
    fn run(self, server: &Arc<Server>) -> Answer {
        let mut added = lock(&server.added);
        if added.contains_key(&self.id) {
            return Err(Failure::generic(format!("Block export id '{}' is already in use", self.id)));
        }
        let point = server.jobs.find(&self.node_name).ok().and_then(|job| job.point());
        let is_point = point.is_some();
        let device: Arc<dyn ExportDevice> = match point {
            Some(_) if self.writable => return Err(Failure::generic("a point in time cannot be changed")),
            Some(point) => point,
            None => server.device(&self.node_name)?.disk.clone() as Arc<Disk>,
        };
        for name in &self.bitmaps {
            device.bitmap_run(name, 0, 0)?;
        }
        let name = self.name.unwrap_or_else(|| self.node_name.clone());
        server.exports.add(Export {
            name: name.clone(),
            description: self.description.unwrap_or_default(),
            read_only: !self.writable,
            write_through: false,
            bitmaps: self.bitmaps,
            device,
        })?;
        added.insert(self.id, Added { node: self.node_name, export: name, point: is_point });
        done()
    }
}

/// Offers it no more. Clients that are connected stay so: what they read of a point in time fails once its job has ended.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ExportDel {
    id: String,
}

impl Command for ExportDel {
    fn run(self, server: &Arc<Server>) -> Answer {
        let removed = lock(&server.added).remove(&self.id);
        let removed = removed.ok_or_else(|| Failure::generic(format!("Export '{}' is not found", self.id)))?;
        server.exports.remove(&removed.export);
        done()
    }
}

/// What commands have added.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QueryExports {}

impl Command for QueryExports {
    fn run(self, server: &Arc<Server>) -> Answer {
        let added = lock(&server.added);
        let info = |(id, added): (&String, &Added)| json!({ "id": id, "type": "nbd", "node-name": added.node, "name": added.export, "shutting-down": false });
        Ok(added.iter().map(info).collect())
    }
}

impl Server {
    /// The job `name` has ended: nobody keeps its point in time any more.
    pub(super) fn withdraw(&self, name: &str) {
        lock(&self.added).retain(|_, added| {
            let gone = added.point && added.node == name;
            if gone {
                self.exports.remove(&added.export);
            }
            !gone
        });
    }
}
