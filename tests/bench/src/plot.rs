//! Plots of cost against size, as SVG: every benchmark whose figures have a note `size`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;
use serde_json::Value;

use crate::runner::Figure;

const SIZE: (u32, u32) = (720, 420);

/// Draws what has sizes into this folder, one file a benchmark.
pub(crate) fn draw(folder: &Path, figures: &[Figure]) -> Result<()> {
    let mut lines: BTreeMap<(&str, &str), Vec<(f64, f64)>> = BTreeMap::new();
    for figure in figures {
        let Some(size) = figure.notes.get("size").and_then(Value::as_f64) else { continue };
        let benchmark = figure.name.split('/').next().unwrap_or(&figure.name);
        lines.entry((benchmark, figure.unit)).or_default().push((size, figure.value));
    }
    std::fs::create_dir_all(folder).with_context(|| format!("the folder {}", folder.display()))?;
    for ((benchmark, unit), mut points) in lines {
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        let file = folder.join(format!("{benchmark}.svg"));
        plot(&file, benchmark, unit, &points).map_err(|error| anyhow!("{}: {error}", file.display()))?;
    }
    Ok(())
}

fn plot(
    file: &Path,
    benchmark: &str,
    unit: &str,
    points: &[(f64, f64)],
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Ok(()) };
    let top = points.iter().map(|point| point.1).fold(0.0, f64::max) * 1.25;
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(format!("{benchmark}: {unit}"), ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(72)
        .build_cartesian_2d((first.0 * 0.8..last.0 * 1.25).log_scale(), 0.0..top.max(1.0))?;
    chart.configure_mesh().x_desc("size").y_desc(unit).x_label_formatter(&|size| format!("{size:.0}")).draw()?;
    chart.draw_series(LineSeries::new(points.iter().copied(), &BLUE))?;
    chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, BLUE.filled())))?;
    area.present()
}
