//! One client's course: what it gets for what it sends.

use super::wire::{self, Class, Failure, Flaw, Splitter};
use serde_json::{Map, Value, json};

/// A client, from the greeting to the flaw that ends it. Bytes go in, in pieces of any size, and come out.
#[derive(Debug, Default)]
pub struct Session {
    splitter: Splitter,
    negotiated: bool,
}

impl Session {
    /// What a client is greeted with.
    #[must_use]
    pub fn greeting() -> Vec<u8> {
        wire::greeting()
    }

    /// Takes what has arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.splitter.push(bytes);
    }

    /// The answer to the next command, if all of it is there. `execute` carries out commands by their names.
    ///
    /// # Errors
    /// Nothing that follows can be understood.
    pub fn answer(
        &mut self,
        execute: impl FnOnce(&str, Map<String, Value>) -> Result<Value, Failure>,
    ) -> Result<Option<Vec<u8>>, Flaw> {
        let Some(text) = self.splitter.next_text()? else { return Ok(None) };
        let (command, id) = wire::parse(&text);
        let result = command.and_then(|command| match (command.name.as_str(), self.negotiated) {
            ("qmp_capabilities", false) => {
                self.negotiated = enable(command.arguments)?;
                Ok(json!({}))
            }
            ("qmp_capabilities", true) => Err(not_found("Capabilities negotiation is already complete")),
            (_, false) => Err(not_found("Expecting capabilities negotiation with 'qmp_capabilities'")),
            (name, true) => execute(name, command.arguments),
        });
        Ok(Some(wire::answer(result, id)))
    }

    /// Whether the client has begun to give commands: it gets events from then on.
    #[must_use]
    pub fn negotiated(&self) -> bool {
        self.negotiated
    }
}

/// No capability is offered; a client may ask for all of these.
fn enable(mut arguments: Map<String, Value>) -> Result<bool, Failure> {
    let wanted = arguments.remove("enable").unwrap_or(json!([]));
    match (wanted, arguments.keys().next()) {
        (Value::Array(wanted), None) if wanted.is_empty() => Ok(true),
        (wanted, None) => Err(Failure::generic(format!("Capability {wanted} not available"))),
        (_, Some(unknown)) => Err(Failure::generic(format!("Parameter '{unknown}' is unexpected"))),
    }
}

fn not_found(description: &str) -> Failure {
    Failure::new(Class::CommandNotFound, description)
}
