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
  send.disabled = Boolean(said.error);
  answer.value = JSON.stringify(said);
  state.textContent = said.error ? said.error.message : "Signed. Enter the one-time password and log in.";
}

window.addEventListener("message", (event) => {
  if (event.source !== window || event.origin !== origin) return;
  if (event.data?.type === "keyward-helper" && !there) {
    there = true;
    byHand.open = false;
    sign();
  }
  if (event.data?.type === "keyward-signed") signed(event.data.answer);
});
again.addEventListener("click", sign);
window.postMessage({ type: "keyward-hello" }, origin);
