//! Where records go, alike in arbiter and worker.

use serde::{Deserialize, Serialize};

/// How and where to log; travels from the arbiter to its workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct LogSettings {
    /// `debug`, `info`, `warning`, `error`, `critical`.
    pub level: String,
    /// `-` (stderr, or the journal where stderr is connected to it) or a path.
    pub errorlog: String,
    /// `-` (stdout, or the journal), a path, or none.
    pub accesslog: Option<String>,
    /// Gunicorn's format with its atoms.
    pub access_log_format: String,
    /// `text` or `json`.
    pub log_format: String,
    /// The instance's name, for the journal's fields.
    pub instance: String,
}
