//! The layers, laid over each other by figment: defaults, Gunicorn's variables, TOML file, RGUNICORN_ variables,
//! GUNICORN_CMD_ARGS, command line.
//!
//! Each value is a provider of its own, so figment itself remembers where the winning one comes from. Invariant: every
//! value of every layer is checked, also one that a higher layer replaces; none that is wrong or refused gets in.

use super::fault::{Fault, Origin, did_you_mean};
use super::setting::{Default, Setting, Status};
use super::table::{SETTINGS, find};
use super::value::{self, Raw};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};
use std::collections::BTreeMap;
use std::ffi::OsString;

/// A value that somebody gave.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    /// Of this setting.
    pub(crate) setting: &'static Setting,
    /// Where.
    pub(crate) origin: Origin,
    /// As it was given.
    pub(crate) raw: Raw,
}

/// All layers in one.
#[derive(Debug)]
pub(crate) struct Layers {
    figment: Figment,
    /// What figment made of the layers; each value's tag leads to its metadata.
    values: Dict,
    /// Where each value that somebody gave comes from; figment's metadata names the key.
    origins: BTreeMap<String, Origin>,
    /// What the operator should know.
    pub(crate) warnings: Vec<String>,
}

/// One value as a layer of its own.
struct Layer {
    origin: String,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::from(self.origin.clone(), Source::Custom(self.origin.clone()))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

impl Layers {
    /// Lays the given values over the defaults, by the rank of their origins.
    pub(crate) fn new(mut givens: Vec<Given>) -> (Self, Vec<Fault>) {
        let defaults = SETTINGS.iter().map(|setting| (setting.name.to_owned(), default(setting))).collect();
        let mut figment = Figment::from(Layer { origin: Origin::Default.to_string(), values: defaults });
        let mut origins = BTreeMap::from([(Origin::Default.to_string(), Origin::Default)]);
        let (mut faults, mut warnings) = (Vec::new(), Vec::new());
        // A stable sort: within a rank the order of reading stands.
        givens.sort_by_key(|given| rank(&given.origin));
        for given in givens {
            match check(&given) {
                Err(fault) => faults.push(fault),
                Ok(value) => {
                    if let Status::NoEffect(reason) = given.setting.status
                        && value != default(given.setting)
                    {
                        warnings.push(format!("{}: {} has no effect: {reason}", given.origin, given.setting.name));
                    }
                    let origin = given.origin.to_string();
                    let values = Dict::from([(given.setting.name.to_owned(), value)]);
                    figment = figment.merge(Layer { origin: origin.clone(), values });
                    origins.insert(origin, given.origin);
                }
            }
        }
        let mut data = figment.data().unwrap_or_default();
        let values = data.remove(&Profile::Default).unwrap_or_default();
        (Self { figment, values, origins, warnings }, faults)
    }

    /// The values in their Rust types.
    pub(crate) fn extract<'v, T: serde::Deserialize<'v>>(&self) -> Result<T, Fault> {
        self.figment.extract().map_err(|error| {
            // The table and the type disagree: our fault, and a test of ours would have to be missing.
            Fault::new(Origin::Default, format!("the settings table is wrong: {error}"))
        })
    }

    /// Where the setting's value comes from.
    pub(crate) fn origin(&self, name: &str) -> Origin {
        let metadata = self.values.get(name).and_then(|value| self.figment.get_metadata(value.tag()));
        metadata.and_then(|metadata| self.origins.get(metadata.name.as_ref())).cloned().unwrap_or(Origin::Default)
    }

    /// Whether somebody gave the setting a value.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.origin(name) != Origin::Default
    }

    /// The setting's value.
    pub(crate) fn value(&self, name: &str) -> Value {
        self.values.get(name).cloned().unwrap_or_else(value::unset)
    }
}

fn rank(origin: &Origin) -> u8 {
    match origin {
        Origin::Default => 0,
        Origin::GunicornEnvironment(_) => 1,
        Origin::File { .. } => 2,
        Origin::Environment(_) => 3,
        Origin::CmdArgs(_) => 4,
        Origin::CommandLine(_) => 5,
    }
}

/// The default as a value.
fn default(setting: &Setting) -> Value {
    match setting.default {
        Default::Unset | Default::Computed(_) => value::unset(),
        // A test reads every default by its kind.
        Default::Is(text) => value::read(setting.kind, &Raw::Text(text.to_owned())).unwrap_or_else(|_| value::unset()),
    }
}

/// The value, if it is of its kind and to be had.
fn check(given: &Given) -> Result<Value, Fault> {
    let Given { setting, origin, raw } = given;
    if let Status::Refused(reason) = setting.status {
        // Whatever form the value has, what matters is that it cannot be had.
        return match value::read(setting.kind, raw) {
            Ok(value) if value == default(setting) => Ok(value),
            Ok(_) | Err(_) => Err(Fault::refused(origin.clone(), setting, raw, reason)),
        };
    }
    let value =
        value::read(setting.kind, raw).map_err(|problem| Fault::wrong_value(origin.clone(), setting, raw, &problem))?;
    if setting.status == Status::NotYet && value != default(setting) {
        let fallback = value::shown(&default(setting)).unwrap_or_else(|| "unset".to_owned());
        let message = format!("{} = {raw} is not supported yet; its value is {fallback}. Leave it out", setting.name);
        return Err(Fault::new(origin.clone(), message));
    }
    Ok(value)
}

/// What the environment says: RGUNICORN_ variables, and Gunicorn's own.
pub(crate) fn environment(variables: &BTreeMap<OsString, OsString>) -> (Vec<Given>, Vec<Fault>, Vec<String>) {
    let (mut givens, mut faults, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
    for (variable, text) in variables {
        let Some(variable) = variable.to_str() else { continue };
        let ours = variable.strip_prefix("RGUNICORN_");
        let (setting, origin) = match ours.map(|name| find(&name.to_ascii_lowercase())) {
            Some(Some(setting)) => (setting, Origin::Environment(variable.to_owned())),
            Some(None) => {
                // Only a warning: Kubernetes makes RGUNICORN_SERVICE_HOST for a service of that name.
                let names = SETTINGS.iter().map(|setting| (setting.name, setting.name));
                let meant = did_you_mean(ours.unwrap_or_default(), names);
                warnings.push(format!("environment {variable}: there is no such setting{meant}"));
                continue;
            }
            // An empty variable of Gunicorn's is no value: compose files pass such.
            None => match SETTINGS.iter().find(|setting| setting.env.contains(&variable)) {
                Some(setting) if !text.is_empty() => (setting, Origin::GunicornEnvironment(variable.to_owned())),
                Some(_) | None => continue,
            },
        };
        match text.to_str() {
            Some(text) if variable == "PORT" => {
                givens.push(Given { setting, origin, raw: Raw::Text(format!("0.0.0.0:{text}")) });
            }
            Some(text) => givens.push(Given { setting, origin, raw: Raw::Text(text.to_owned()) }),
            None => faults.push(Fault::new(origin, format!("the value of {} is not UTF-8", setting.name))),
        }
    }
    (givens, faults, warnings)
}
