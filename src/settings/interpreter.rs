//! Finds the application's interpreter: the setting, else the virtual environments in their order, else PATH.
//!
//! Does not start it: what Python it is, the arbiter learns from itself. Invariant: links in its folder's path are
//! resolved, so that a `current` link may move under a running generation; the interpreter's own link is never
//! resolved, since the folder in which it is found is what makes it a virtual environment's (PEP 405).

use super::access::{Identity, Wanted, obstacle};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The interpreter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interpreter {
    /// Absolute; the folder is resolved, the link is not.
    pub(crate) path: PathBuf,
    /// How it was found, a clause.
    pub(crate) origin: String,
}

/// Where to look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Search<'s> {
    /// The setting `python`, if it is set: a path (relative to `chdir`) or a name on PATH.
    pub(crate) setting: Option<&'s str>,
    /// The application's folder, absolute.
    pub(crate) chdir: &'s Path,
    /// The program itself.
    pub(crate) program: &'s Path,
    /// VIRTUAL_ENV and PATH are looked at.
    pub(crate) environment: &'s BTreeMap<OsString, OsString>,
    /// Who runs it.
    pub(crate) identity: &'s Identity,
}

/// Finds it. The error is a sentence without a full stop that says what stands in the way.
pub(crate) fn find(search: &Search<'_>, warnings: &mut Vec<String>) -> Result<Interpreter, String> {
    if let Some(name) = search.setting {
        let path = if name.contains('/') {
            search.chdir.join(name)
        } else {
            on_path(name, search).ok_or_else(|| format!("there is no {name} on PATH"))?
        };
        return usable(path, "the setting python".to_owned(), search.identity);
    }
    if let Some(found) = search.program.parent().and_then(virtual_environment_of_folder) {
        return usable(found, "the virtual environment that rgunicorn is installed in".to_owned(), search.identity);
    }
    if let Some(active) = search.environment.get(&OsString::from("VIRTUAL_ENV")).filter(|active| !active.is_empty()) {
        let python = search.chdir.join(active).join("bin/python");
        if python.symlink_metadata().is_ok() {
            return usable(python, "VIRTUAL_ENV in the environment".to_owned(), search.identity);
        }
        warnings.push(format!("environment VIRTUAL_ENV: {} does not exist; it is not used", python.display()));
    }
    for folder in [".venv", "venv"] {
        let bin = search.chdir.join(folder).join("bin");
        if let Some(python) = virtual_environment_of_folder(&bin) {
            return usable(python, format!("the virtual environment {folder} in chdir"), search.identity);
        }
    }
    match on_path("python3", search) {
        Some(path) => usable(path, "python3 on PATH".to_owned(), search.identity),
        None => Err(format!(
            "there is no virtual environment (.venv or venv in {}) and no python3 on PATH; say which interpreter has the \
             application's packages",
            search.chdir.display()
        )),
    }
}

/// Whether `path` is in a virtual environment.
pub(crate) fn is_virtual_environment(path: &Path) -> bool {
    path.parent().and_then(Path::parent).is_some_and(|top| top.join("pyvenv.cfg").is_file())
}

/// The python in a `bin` folder if that belongs to a virtual environment.
fn virtual_environment_of_folder(bin: &Path) -> Option<PathBuf> {
    let python = bin.join("python");
    (python.symlink_metadata().is_ok() && is_virtual_environment(&python)).then_some(python)
}

fn on_path(name: &str, search: &Search<'_>) -> Option<PathBuf> {
    let path = search.environment.get(&OsString::from("PATH"))?;
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|candidate| obstacle(candidate, Wanted::Program, search.identity).is_none())
}

fn usable(path: PathBuf, origin: String, identity: &Identity) -> Result<Interpreter, String> {
    if let Some(what) = obstacle(&path, Wanted::Program, identity) {
        let inside = path.join("bin/python");
        let hint = if inside.symlink_metadata().is_ok() {
            format!("; did you mean {}?", inside.display())
        } else {
            advice(&what)
        };
        return Err(format!("{what}{hint}"));
    }
    let resolved = path.parent().and_then(|folder| folder.canonicalize().ok()).zip(path.file_name());
    let path = match resolved {
        Some((folder, name)) => folder.join(name),
        None => path,
    };
    if path.as_os_str().as_bytes().contains(&b'\n') {
        return Err("its path contains a line break".to_owned());
    }
    Ok(Interpreter { path, origin })
}

fn advice(what: &str) -> String {
    if what.contains("cannot be entered") {
        "; put the virtual environment (and the Python that it links to) where that user may go, /srv or /opt"
            .to_owned()
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    struct World {
        root: tempfile::TempDir,
        environment: BTreeMap<OsString, OsString>,
    }

    impl World {
        fn new() -> Self {
            Self { root: tempfile::tempdir().unwrap(), environment: BTreeMap::new() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.path().canonicalize().unwrap().join(name)
        }

        fn program(&self, name: &str) -> PathBuf {
            let path = self.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        }

        fn venv(&self, name: &str) -> PathBuf {
            let python = self.program(&format!("{name}/bin/python"));
            fs::write(self.path(name).join("pyvenv.cfg"), "").unwrap();
            python
        }

        fn set(&mut self, name: &str, value: PathBuf) {
            self.environment.insert(name.into(), value.into());
        }

        fn find(&self, setting: Option<&str>) -> Result<(PathBuf, String), String> {
            let (mut warnings, chdir) = (Vec::new(), self.path("app"));
            fs::create_dir_all(&chdir).unwrap();
            let search = Search {
                setting,
                chdir: &chdir,
                program: &self.path("tools/bin/rgunicorn"),
                environment: &self.environment,
                identity: &Identity::ourselves(),
            };
            find(&search, &mut warnings).map(|found| (found.path, found.origin))
        }
    }

    #[test]
    fn the_places_are_looked_at_in_their_order() {
        let mut world = World::new();
        assert_eq!(
            world.find(None).unwrap_err(),
            format!(
                "there is no virtual environment (.venv or venv in {}) and no python3 on PATH; say which interpreter has \
                 the application's packages",
                world.path("app").display()
            )
        );
        let python3 = world.program("usr/bin/python3");
        world.set("PATH", world.path("usr/bin"));
        assert_eq!(world.find(None), Ok((python3, "python3 on PATH".to_owned())));
        let venv = world.venv("app/venv");
        assert_eq!(world.find(None), Ok((venv, "the virtual environment venv in chdir".to_owned())));
        let hidden = world.venv("app/.venv");
        assert_eq!(world.find(None), Ok((hidden, "the virtual environment .venv in chdir".to_owned())));
        let active = world.venv("active");
        world.set("VIRTUAL_ENV", world.path("active"));
        assert_eq!(world.find(None), Ok((active, "VIRTUAL_ENV in the environment".to_owned())));
        let own = world.venv("tools");
        assert_eq!(world.find(None), Ok((own, "the virtual environment that rgunicorn is installed in".to_owned())));
        let set = world.venv("set");
        assert_eq!(world.find(set.to_str()), Ok((set, "the setting python".to_owned())));
    }

    #[test]
    fn a_relative_path_begins_at_chdir_and_a_name_is_looked_up_on_path() {
        let mut world = World::new();
        let python = world.venv("app/env");
        assert_eq!(world.find(Some("env/bin/python")).unwrap().0, python);
        let other = world.program("usr/bin/python3.12");
        world.set("PATH", world.path("usr/bin"));
        assert_eq!(world.find(Some("python3.12")).unwrap().0, other);
        assert_eq!(world.find(Some("python3.13")).unwrap_err(), "there is no python3.13 on PATH");
    }

    #[test]
    fn the_folder_is_resolved_and_the_interpreters_own_link_is_not() {
        let world = World::new();
        world.program("usr/bin/python3");
        world.venv("releases/5/venv");
        fs::remove_file(world.path("releases/5/venv/bin/python")).unwrap();
        symlink(world.path("usr/bin/python3"), world.path("releases/5/venv/bin/python")).unwrap();
        symlink(world.path("releases/5"), world.path("current")).unwrap();
        let set = world.path("current/venv/bin/python");
        assert_eq!(world.find(set.to_str()).unwrap().0, world.path("releases/5/venv/bin/python"));
    }

    #[test]
    fn a_virtual_environment_named_by_its_folder_is_refused_with_the_right_path() {
        let world = World::new();
        let python = world.venv("env");
        assert_eq!(
            world.find(world.path("env").to_str()).unwrap_err(),
            format!("{} is a folder; did you mean {}?", world.path("env").display(), python.display())
        );
    }

    #[test]
    fn a_stale_virtual_env_is_passed_over() {
        let mut world = World::new();
        world.set("VIRTUAL_ENV", world.path("gone"));
        let venv = world.venv("app/venv");
        assert_eq!(world.find(None).unwrap().0, venv);
    }
}
