//! The README in Chinese says what the README says.
#![allow(clippy::unwrap_used)]

use std::path::Path;

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// What is the same in every language: code, headings by their level, rows of tables, points of lists.
fn shape(text: &str) -> Vec<String> {
    let mut shape = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        in_code ^= line.starts_with("```");
        if in_code || line.starts_with("```") {
            shape.push(line.to_owned());
        } else if let Some(mark) = ["## ", "# ", "| `", "|", "- "]
            .iter()
            .find(|mark| line.starts_with(**mark))
        {
            let name = line.split('`').nth(1).filter(|_| *mark == "| `");
            shape.push(format!("{mark}{}", name.unwrap_or_default()));
        }
    }
    shape
}

#[test]
fn the_readme_in_chinese_has_the_same_code_sections_rows_and_points() {
    assert_eq!(
        shape(&read("docs/README.zh-CN.md")),
        shape(&read("README.md"))
    );
}
