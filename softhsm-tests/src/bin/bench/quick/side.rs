//! Who is measured: worlds with as many tenants each, and the daemons in them.

use std::path::Path;

use keyward_softhsm_tests::{Daemon, World};

use super::super::Outcome;
use super::super::report::say;
use super::cost::Account;
use super::pairs::Role;

/// Programs that an older version must have; without the last one there are no tenants.
const PROGRAMS: [&str; 2] = ["keyward", "keywardd"];
const FILLS: &str = "bench";

/// A version and its world.
pub(crate) struct Side {
    pub(crate) role: Role,
    pub(crate) world: World,
}

/// A side whose daemon runs.
pub(crate) struct Running {
    pub(crate) role: Role,
    pub(crate) daemon: Daemon,
    pub(crate) account: Account,
}

/// Makes the worlds, this version's first; answers how many tenants each of them has.
///
/// # Errors
/// When the older version lacks a program, or a program of a world fails.
pub(crate) async fn all(
    folder: &Path,
    tenants: usize,
    against: Option<&Path>,
) -> Outcome<(Vec<Side>, usize)> {
    let mut tenants = tenants;
    if let Some(older) = against {
        if let Some(missing) = PROGRAMS.into_iter().find(|name| !older.join(name).is_file()) {
            return Err(format!("{} has no {missing}: build the older version first", older.display()).into());
        }
        // Only its own program can write a store of its format.
        if !older.join(FILLS).is_file() {
            say(&format!("{} has no {FILLS}: starts are of empty stores, no cold tenants", older.display()))?;
            tenants = 0;
        }
    }
    let older = against.map(|older| (Role::Older, Some(older)));
    // The older one between the two others: nearer in time to the first than the control is.
    let roles = [Some((Role::This, None)), older, Some((Role::Again, None))];
    let mut sides = Vec::new();
    for (role, programs) in roles.into_iter().flatten() {
        sides.push(Side::new(role, programs, folder, tenants).await?);
    }
    Ok((sides, tenants))
}

impl Side {
    async fn new(role: Role, programs: Option<&Path>, folder: &Path, tenants: usize) -> Outcome<Self> {
        let mut world = World::in_folder(folder);
        if let Some(programs) = programs {
            world.programs = Some(std::path::absolute(programs)?);
            forget_unknown_keys(&mut world)?;
        }
        world.init();
        if tenants > 0 {
            let (config, tenants) = (world.config_file(), tenants.to_string());
            let filled = world.command(FILLS).args(["fill", &config, &tenants, "1"]).output()?;
            if !filled.status.success() {
                let said = String::from_utf8_lossy(&filled.stderr);
                return Err(format!("the tenants could not be made: {said}").into());
            }
        }
        let (daemon, _) = world.start_with_key().await;
        daemon.stop().await;
        Ok(Self { role, world })
    }
}

/// Leaves out of the configuration what the world's daemon does not know yet.
fn forget_unknown_keys(world: &mut World) -> Outcome<()> {
    loop {
        let config = world.config_file();
        let checked = world.command("keywardd").args(["--check-config", "--config", &config]).output()?;
        // It may refuse the configuration for another reason, as that nothing was initialised.
        let said = String::from_utf8_lossy(&checked.stderr);
        match without_unknown_key(&world.config, &said) {
            Some(shorter) => world.config = shorter,
            None => return Ok(()),
        }
    }
}

/// The configuration without the line, or the table, that a message of the daemon calls unknown.
fn without_unknown_key(config: &str, message: &str) -> Option<String> {
    if !message.contains("unknown field") {
        return None;
    }
    // As versions of before said it, and as this one does.
    let (_, place) = message.split_once("error at line ").or_else(|| message.split_once(": line "))?;
    let number: usize = place.split(',').next()?.parse().ok()?;
    let lines: Vec<&str> = config.lines().collect();
    let at = number.checked_sub(1).filter(|at| *at < lines.len())?;
    let is_table = |line: &str| line.trim_start().starts_with('[');
    let end = match is_table(lines[at]) {
        true => {
            lines[at + 1..].iter().position(|line| is_table(line)).map_or(lines.len(), |more| at + 1 + more)
        }
        false => at + 1,
    };
    let kept = lines[..at].iter().chain(&lines[end..]);
    Some(kept.flat_map(|line| [*line, "\n"]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str =
        "state_dir = \"a\"\n\n[log]\nlevel = \"info\"\ncolour = \"x\"\n[new]\nb = 1\n\n[hsm]\nc = 2\n";

    #[test]
    fn an_unknown_key_is_left_out() {
        let said =
            "keywardd: error: f: TOML parse error at line 5, column 1\n  |\nunknown field `colour`, expected";
        assert_eq!(without_unknown_key(CONFIG, said).unwrap(), CONFIG.replace("colour = \"x\"\n", ""));
        let said = "keywardd: error: f: line 5, column 1: unknown field `colour`, expected one of `level` (colour = \"x\")";
        assert_eq!(without_unknown_key(CONFIG, said).unwrap(), CONFIG.replace("colour = \"x\"\n", ""));
    }

    #[test]
    fn an_unknown_table_is_left_out_whole() {
        let said = "f: TOML parse error at line 6, column 2\n  |\nunknown field `new`, expected one of";
        assert_eq!(without_unknown_key(CONFIG, said).unwrap(), CONFIG.replace("[new]\nb = 1\n\n", ""));
        let last = "f: TOML parse error at line 9, column 2\nunknown field `hsm`";
        assert_eq!(without_unknown_key(CONFIG, last).unwrap(), CONFIG.replace("[hsm]\nc = 2\n", ""));
    }

    #[test]
    fn any_other_refusal_stands() {
        assert_eq!(
            without_unknown_key(CONFIG, "f: TOML parse error at line 5, column 1\ninvalid type"),
            None
        );
        assert_eq!(without_unknown_key(CONFIG, "unknown field `x`"), None);
        let beyond = "f: TOML parse error at line 50, column 1\nunknown field `x`";
        assert_eq!(without_unknown_key(CONFIG, beyond), None);
    }
}
