
document.documentElement.classList.add("js");
try {
  document.documentElement.dataset.theme = localStorage.getItem("nst-report-theme") || "auto";
} catch {
  // no storage, no memory
}
