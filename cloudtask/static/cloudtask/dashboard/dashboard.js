// Keeps the regions of a page up to date, by fetching the page itself. All pages work
// without it. It makes no styles and no scripts, so a strict policy needs no exception.

const SLOWEST = 30; // seconds between two requests
const KEEP = "cloudtask.interval";

const page = document.querySelector("[data-ct-page]");
const control = document.querySelector("[data-ct-live-control]");
let state = "";
let etag = "";
let wait = 2;
let timer = 0;

const chosen = () => Number(document.getElementById("ct-interval")?.value ?? 0);

function say(text) {
  const place = document.querySelector("[data-ct-live-state]");
  if (place && place.textContent !== text) place.textContent = text;
}

function states() {
  return [...document.querySelectorAll("[data-live] .ct-state, [data-live] [data-state]")]
    .map((one) => one.textContent.trim()).join(" ");
}

function announce() {
  const now = states();
  const place = document.querySelector("[data-ct-announce]");
  if (place && now !== state) place.textContent = `Changed at ${new Date().toLocaleTimeString()}.`;
  state = now;
}

// A person who selects text or types in a region keeps it as it is.
function isBusy(region) {
  const selection = document.getSelection();
  const selects = selection && !selection.isCollapsed && region.contains(selection.anchorNode);
  const types = document.activeElement?.matches("input, select, textarea");
  return selects || (types && region.contains(document.activeElement));
}

function swap(region, fresh) {
  if (region.innerHTML === fresh.innerHTML || isBusy(region)) return;
  const open = [...region.querySelectorAll("details[open]")].map((one) => one.dataset.key);
  const focused = region.contains(document.activeElement) ? document.activeElement : null;
  const mark = focused && (focused.dataset.key ?? focused.getAttribute("href"));
  region.replaceChildren(...document.importNode(fresh, true).childNodes);
  for (const one of region.querySelectorAll("details")) one.open = open.includes(one.dataset.key);
  if (focused) {
    const again = [...region.querySelectorAll("[data-key], a[href], summary")].find(
      (one) => (one.dataset.key ?? one.getAttribute("href")) === mark);
    (again ?? region).focus?.({ preventScroll: true });
  }
}

function show(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  let changed = false;
  for (const region of document.querySelectorAll("[data-live]")) {
    const found = fresh.getElementById(region.id);
    if (!found) continue;
    changed ||= region.innerHTML !== found.innerHTML;
    swap(region, found);
  }
  return changed;
}

async function refresh() {
  const url = new URL(location.href);
  url.searchParams.set("fragment", "1");
  try {
    const answer = await fetch(url, { headers: etag ? { "If-None-Match": etag } : {}, redirect: "error", cache: "no-store" });
    let changed = false;
    if (answer.status !== 304) {
      if (!answer.ok) throw new Error(String(answer.status));
      etag = answer.headers.get("ETag") ?? "";
      changed = show(await answer.text());
    }
    announce();
    say("");
    wait = changed ? chosen() : Math.min(wait * 2, Math.max(SLOWEST, chosen()));
  } catch {
    say("No answer; trying again");
    wait = Math.min(wait * 2, SLOWEST);
  }
  plan();
}

function plan() {
  clearTimeout(timer);
  if (!chosen()) return say("Paused");
  if (document.hidden) return;
  timer = setTimeout(refresh, Math.max(wait, chosen()) * 1000);
}

if (page && control && document.querySelector("[data-live]")) {
  control.hidden = false;
  const interval = document.getElementById("ct-interval");
  const kept = sessionStorage.getItem(KEEP);
  if (kept !== null && [...interval.options].some((one) => one.value === kept)) interval.value = kept;
  interval.addEventListener("change", () => {
    sessionStorage.setItem(KEEP, interval.value);
    wait = chosen();
    say("");
    plan();
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) { wait = chosen(); plan(); } });
  state = states();
  wait = chosen();
  plan();
}

// Choose all on this page.
const all = document.querySelector("[data-ct-all]");
if (all) {
  all.hidden = false;
  all.addEventListener("change", () => {
    for (const one of document.querySelectorAll('input[name="key"]')) one.checked = all.checked;
  });
}

// After an action, the message is where the person is.
const message = document.querySelector(".messagelist");
if (page && message) {
  message.tabIndex = -1;
  message.focus();
}
