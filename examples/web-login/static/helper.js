// Hands the challenge to the helper through the browser extension, if that is there. Everything works without:
// then the line is given to the helper by hand.
"use strict";
const [request, answer, state, again, byHand, send] = ["request", "answer", "state", "again", "by-hand", "send"]
  .map((id) => document.getElementById(id));
const origin = window.location.origin;
let there = false;

function sign() {
  again.hidden = send.disabled = true;
  state.textContent = "Look at the helper: it shows what is signed, and asks for the PIN. Touch the token when it blinks.";
  window.postMessage({ type: "keyward-login", request: JSON.parse(request.value) }, origin);
}

function signed(said) {
  again.hidden = !said.error;
  send.disabled = byHand.open = Boolean(said.error);
  answer.value = said.error ? "" : JSON.stringify(said);
  state.textContent = said.error ? said.error.message : "Signed. Enter the one-time password and log in.";
}

// Another signature is of no use then.
function over() {
  again.hidden = send.disabled = true;
  byHand.hidden = true;
  state.textContent = "The time for this login is over: begin again on the first page.";
}

window.addEventListener("message", (event) => {
  if (event.source !== window || event.origin !== origin) return;
  if (event.data?.type === "keyward-helper" && !there) {
    there = true;
    byHand.open = false;
    sign();
  }
  if (event.data?.type === "keyward-signed") {
    signed(event.data.answer ?? { error: { message: "The browser extension does not answer: load the page again." } });
  }
});
again.addEventListener("click", sign);
answer.addEventListener("input", () => { send.disabled = !answer.value; });
const { issued, expires } = JSON.parse(request.value).params;
setTimeout(over, expires - issued);
window.postMessage({ type: "keyward-hello" }, origin);
