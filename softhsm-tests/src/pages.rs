//! What the pages print, as commands to run: the blocks ```` ```console ````, in which `# ` is root's prompt, `$ ` an operator's and
//! `NAME$ ` another person's. A line that ends with `\` goes on; whatever has no prompt is output.

use std::path::Path;

/// A page of the documents.
pub struct Page {
    name: &'static str,
    text: String,
}

/// A command that a page prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Where it stands, for messages.
    pub place: String,
    /// Who runs it: `root`, `operator`, or a name.
    pub user: String,
    /// What the shell is given, letter for letter.
    pub script: String,
}

impl Page {
    /// A page by its path in the repository.
    pub fn read(name: &'static str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { name, text }
    }

    /// The blocks behind a heading, up to the next one of its level or above.
    pub fn blocks(&self, heading: &str) -> Vec<Vec<Command>> {
        let (mut blocks, mut inside, mut open): (Vec<Vec<Command>>, _, _) = (Vec::new(), false, false);
        let level = heading.chars().take_while(|one| *one == '#').count();
        for (number, line) in (1..).zip(self.text.lines()) {
            let bare = line.trim_start();
            if !open && bare.starts_with('#') && bare == line {
                let other = line.chars().take_while(|one| *one == '#').count();
                inside = line == heading || inside && other > level;
            }
            match bare {
                "```console" if inside => {
                    open = true;
                    blocks.push(Vec::new());
                }
                "```" => open = false,
                _ if open => self.take(&mut blocks, number, bare),
                _ => {}
            }
        }
        assert!(!blocks.is_empty(), "{} has no block under {heading:?}", self.name);
        blocks
    }

    fn take(&self, blocks: &mut [Vec<Command>], number: usize, line: &str) {
        let block = blocks.last_mut().expect("it was opened");
        if let Some(before) = block.last_mut().filter(|before| before.script.ends_with('\\')) {
            before.script.push('\n');
            before.script.push_str(line);
            return;
        }
        let Some((prompt, script)) = line.split_once(' ') else { return };
        let user = match prompt {
            "#" => "root",
            "$" => "operator",
            other => match other.strip_suffix('$') {
                Some(name) if name.chars().all(|one| one.is_ascii_lowercase()) => name,
                _ => return,
            },
        };
        let place = format!("{}:{number}", self.name);
        block.push(Command { place, user: user.to_owned(), script: script.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_say_who_and_what_has_none_is_output() {
        let text = "# A\n## One\n```console\n# rm \\\n    x\nremoved\n$ ls  # all\nalice$ cat y\n```\n### Below\n   ```console\n   $ ls\n   ```\n## Two\n```console\n$ no\n```\n";
        let page = Page { name: "page", text: text.to_owned() };
        let said = |command: &Command| format!("{} {} {}", command.place, command.user, command.script);
        let blocks = page.blocks("## One");
        let told: Vec<Vec<String>> = blocks.iter().map(|block| block.iter().map(said).collect()).collect();
        let first = ["page:4 root rm \\\nx", "page:7 operator ls  # all", "page:8 alice cat y"];
        assert_eq!(told, [first.map(str::to_owned).to_vec(), vec!["page:12 operator ls".to_owned()]]);
    }
}
