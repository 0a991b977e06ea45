//! The demo's pictures: one line a step with its time, and a timeline that grows with the story.

use std::io::IsTerminal;
use std::time::Instant;

/// What the timeline shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scene {
    Backup,
    Good,
    Accident,
    Loss,
    Restored,
}

const SCENES: [(Scene, &str); 4] = [
    (Scene::Backup, "backup"),
    (Scene::Good, "the moment"),
    (Scene::Accident, "accident"),
    (Scene::Loss, "loss"),
];
/// Columns from one scene to the next.
const PITCH: usize = 18;

/// Tells the steps as they are done.
pub(super) struct Story {
    begun: Instant,
    last: Instant,
    colour: bool,
}

impl Story {
    pub(super) fn begin() -> Story {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        println!();
        Story { begun: Instant::now(), last: Instant::now(), colour }
    }

    /// A step that is done; its time is what has passed since the last one.
    pub(super) fn step(&mut self, what: &str) {
        let took = self.last.elapsed().as_secs_f32();
        println!("{} {what}", self.paint("36", &format!("{took:6.1} s ")));
        self.last = Instant::now();
    }

    /// A line that belongs to the last step.
    pub(super) fn detail(&self, what: &str) {
        println!("          {what}");
    }

    /// Draws the timeline up to this scene.
    pub(super) fn scene(&self, now: Scene) {
        for line in timeline(now) {
            println!("          {}", self.paint(if now == Scene::Restored { "32" } else { "33" }, &line));
        }
    }

    pub(super) fn end(&self, what: &str) {
        println!("\n{what}.");
        println!("The whole story took {:.1} s.", self.begun.elapsed().as_secs_f32());
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// The line of time with its marks, their names below, and once restored the way back.
fn timeline(now: Scene) -> Vec<String> {
    let reached = SCENES.iter().position(|(scene, _)| *scene == now).unwrap_or(SCENES.len() - 1);
    let (mut line, mut names) = (String::new(), String::new());
    for (at, (scene, name)) in SCENES.iter().enumerate().take(reached + 1) {
        let mark = match scene {
            Scene::Backup => '◆',
            Scene::Good => '●',
            Scene::Accident => '▲',
            _ => '✗',
        };
        let end = at == reached;
        line.push(mark);
        line.push_str(&if end { "─▶".to_owned() } else { "─".repeat(PITCH - 1) });
        names.push_str(&format!("{name:<PITCH$}"));
    }
    if now == Scene::Loss || now == Scene::Restored {
        line.truncate(line.len() - "─▶".len());
    }
    let mut picture = vec![line, names.trim_end().to_owned()];
    if now == Scene::Restored {
        picture.insert(0, format!("{}●━━━━━━━▶ and life goes on from here", " ".repeat(PITCH)));
        picture.insert(1, format!("{}┃", " ".repeat(PITCH)));
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_stand_above_their_names() {
        let picture = timeline(Scene::Loss);
        let column = |line: &str, what: &str| line.split_once(what).map(|(before, _)| before.chars().count());
        assert_eq!(column(&picture[0], "●"), column(&picture[1], "the moment"));
        assert_eq!(column(&picture[0], "✗"), column(&picture[1], "loss"));
        assert_eq!(timeline(Scene::Backup)[0], "◆─▶");
    }
}
